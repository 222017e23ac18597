"""Batches with two views of each image: which, whose, and what becomes of them."""

import numpy as np
import pytest
import torch
from data_files import pixels

from kdcompress.data.batch import STRONG, Batch, two_views
from kdcompress.data.feed import Feed
from kdcompress.data.loader import Loader
from kdcompress.data.mixing import Mixing
from kdcompress.data.splits import Split
from kdcompress.data.views import Views
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment
from kdcompress.training.update import parts

AUGMENT = Augment(crop=1, flip=True, second={"randaugment": {"n": 1, "m": 15}})


def split(n=24, start=0):
    return Split(pixels(n, 8, 8, 3, start=start), np.arange(n) % 3)


def loader(augment=AUGMENT, n=24, batch=8, seed=0, **rest):
    return Loader(split(n), augment, batch, seed, rows=STRONG, **rest)


@pytest.mark.parametrize("each", [0, 4, 100])
def test_the_second_half_is_the_strong_view_of_the_same_images(each):
    made = loader(AUGMENT.model_copy(update={"views": each}))
    views, weak = Views(AUGMENT, 8, 8), Views(AUGMENT.seen(False), 8, 8)
    assert views.first == weak.count == 18 and views.count == 18 * 28
    assert made.slots == {0: 18 * 28, 4: 8, 100: 118}[each]
    seen = {}
    for step in range(60):
        batch = made.batch_at(step)
        (first, second), (a, b) = batch.index.view(2, 8), batch.view.view(2, 8)
        assert torch.equal(first, second) and torch.equal(*batch.y.view(2, 8)) and a.max() < 18
        originals = made.images[first]
        assert torch.equal(batch.x[:8], weak.apply(originals, a)) and torch.equal(
            batch.x[8:], views.apply(originals, b)
        )
        assert torch.equal(made.make(made.keys(step)), batch.x)
        for image, view in zip(second.tolist(), b.tolist()):
            seen.setdefault(image, set()).add(view)
    changed = [view >= 18 for views in seen.values() for view in views]
    assert 0.85 < np.mean(changed) <= 1  # one of 14 operations is none
    assert max(map(len, seen.values())) <= (each or 20)


def test_the_first_half_is_that_of_one_view():
    """Of the same seed, where all views that there are are drawn from."""
    alone = Loader(split(), AUGMENT, 8, 0)
    for step in range(4):
        one, two = alone.batch_at(step), loader().batch_at(step)
        assert torch.equal(one.x, two.x[:8]) and torch.equal(one.index, two.index[:8])


def test_two_processes_make_the_batch_of_one():
    whole = loader().batch_at(1)
    for rank in range(2):
        part = loader(rank=rank, world=2).batch_at(1)
        assert torch.equal(part.x, whole.x.view(2, 8, 3, 8, 8)[:, rank::2].flatten(0, 1))


def test_both_views_are_mixed_in_the_same_way():
    batch = loader().batch_at(0)
    mixing = Mixing(Augment(mixup=1.0), 3, 0, rows=STRONG)
    mixed, plain = mixing(batch, 5), Mixing(Augment(mixup=1.0), 3, 0)
    for half in (slice(0, 8), slice(8, 16)):
        alone = plain(Batch(batch.x[half], batch.y[half]), 5)
        assert torch.equal(mixed.x[half], alone.x) and torch.equal(mixed.y[half], alone.y)
    assert torch.equal(mixed.y[:8], mixed.y[8:]) and mixed.index is None


def test_images_without_labels_have_two_views_too():
    beside = Loader(split(40, start=5), AUGMENT, 16, 1, rows=STRONG)
    feed = Feed(loader(), beside)
    batch = next(feed.batches(2))
    assert batch.x.shape[0] == feed.rows_per_step == 48 and len(batch.y) == 16
    weak, strong = two_views(batch.x, 16)
    mine, others = feed.loader.batch_at(2).x, beside.batch_at(2).x
    assert torch.equal(weak, torch.cat([mine[:8], others[:16]])) and torch.equal(
        strong, torch.cat([mine[8:], others[16:]])
    )
    for k, part in enumerate(batch.parts(2, STRONG)):
        ours, theirs = two_views(part.x, len(part.y))
        keep = [*range(4 * k, 4 * k + 4), *range(8 + 8 * k, 16 + 8 * k)]
        assert torch.equal(ours, weak[keep]) and torch.equal(theirs, strong[keep])


@pytest.mark.parametrize(("rows", "labelled"), [("single", 4), ("single", 12), (STRONG, 4), (STRONG, 12)])
def test_known_answers_stay_with_their_images(rows, labelled):
    x = torch.arange(12).view(12, 1, 1, 1)
    batch = Batch(x, torch.arange(labelled))
    taps = Taps(x.view(12, 1).float(), [], -x.view(12, 1).float())
    found = list(parts(batch, [taps], 2, rows))
    assert sorted(int(v) for part, _ in found for v in part.x.flatten()) == list(range(12))
    for part, (known,) in found:
        assert known.logits.flatten().tolist() == part.x.flatten().tolist() == (-known.pooled).flatten().tolist()
