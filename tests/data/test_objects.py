"""Objects as a truth, and where the views of their images show them."""

import numpy as np
import pytest
import torch

from kdcompress.data import objects
from kdcompress.data.loader import Loader, eval_batches
from kdcompress.data.objects import CROWD, KIND, NOTHING, OBJECT, packed, rows
from kdcompress.data.source import stratified_order
from kdcompress.data.splits import Split
from kdcompress.data.truth import encoded, needs_each, of_each, replaced, strata
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment


def truth():
    one = rows(np.array([[1, 2, 5, 7], [0, 0, 3, 3.5]]), np.array([2, 0]), np.array([OBJECT, CROWD]))
    return packed([one, np.zeros((0, 6)), rows(np.array([[4, 4, 8, 8]]), 2), rows(np.array([[4, 4, 8, 8]]), 1)])


def test_padding_is_zeros_behind_the_objects():
    found = truth()
    assert found.shape == (4, 2, 6) and found.dtype == np.float32
    assert found[0].tolist() == [[1, 2, 5, 7, 2, 1], [0, 0, 3, 3.5, 0, 2]]
    assert found[2].tolist() == [[4, 4, 8, 8, 2, 1], [0] * 6] and not found[1].any()
    objects.check(found, 3, 8, 8)
    assert objects.objects_of(found[2]).tolist() == [[4, 4, 8, 8, 2, 1]]
    assert objects.areas(found[0]).tolist() == [20, 10.5]
    assert packed([np.zeros((0, 6))]).shape == (1, 1, 6) and packed([], least=3).shape == (0, 3, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.astype(np.float64), "float32"),
        (lambda t: t[:, :, :5], "float32"),
        (lambda t: t[:, ::-1], "padding"),
        (lambda t: t + np.float32([0, 0, 0, 0, 0, 5]), "kinds"),
        (lambda t: t * np.float32([1, 1, 0, 1, 1, 1]), "box"),
        (lambda t: t * np.float32([1, 1, 2, 1, 1, 1]), "box"),
        (lambda t: t * np.float32([1, 1, 1, 1, 0.4, 1]), "classes"),
        (lambda t: t * np.float32([1, 1, 1, 1, 2, 1]), "classes"),
    ],
)
def test_what_is_no_truth_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        objects.check(change(truth()), 3, 8, 8)


def test_objects_are_counted_and_images_stratified_by_their_rarest_class():
    found = truth()
    assert of_each(found, 5).tolist() == [0, 1, 2, 0, 0]  # the crowd does not count
    assert strata(found).tolist() == [2, 3, 2, 1]  # an image of no object has a number of its own
    assert not needs_each(found)
    assert encoded(found) == found.astype("<f4").tobytes() and encoded(found) != encoded(found[:, ::-1])
    with pytest.raises(UsageError, match="label_noise"):
        replaced(found, np.ones(4, np.int64), 3)
    assert strata(np.zeros((3, 1, 6), np.float32)).tolist() == [1, 1, 1]
    assert sorted(stratified_order(strata(found), "key", each=False).tolist()) == [0, 1, 2, 3]


AUGMENTS = [
    Augment(flip=True),
    Augment(crop=5),
    Augment(crop=3, flip=True, cutout=4),
    Augment(scale=0.5),
    Augment(crop=4, flip=True, scale=0.3, colour=0.2),
]
HEIGHT, WIDTH = 20, 30


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_a_moved_box_is_the_tight_box_of_the_moved_mask(augment):
    """Each object drawn as an image of its own, which is seen through the view without the cutout."""
    random = np.random.default_rng(0)
    views = Views(augment.model_copy(update={"cutout": 0, "colour": 0.0}), HEIGHT, WIDTH, 1)
    count, most = 300, 3
    least = 5 if augment.scale else 1  # a thinner one may be mixed with what is around it until nothing is left
    corners = np.sort(random.integers(0, (WIDTH - least + 1, HEIGHT - least + 1), (count, most, 2, 2)), axis=2)
    corners[:, :, 1] += least
    boxes = corners.reshape(count, most, 4)
    its = packed([rows(each, np.arange(most)) for each in boxes])
    ids = torch.from_numpy(random.integers(0, views.count, count))
    moved = views.moved(torch.from_numpy(its), ids).numpy()
    assert moved.dtype == np.float32 and moved.shape == its.shape
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    left_out = seen = 0
    for number in range(most):
        x1, y1, x2, y2 = (side[:, None, None] for side in boxes[:, number].T)
        masks = ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).astype(np.uint8) * 255
        shown = views.apply(torch.from_numpy(masks[:, None]), ids)[:, 0].numpy() >= 128
        for mask, image in zip(shown, moved):
            found = image[(image[:, objects.CLASS] == number) & (image[:, KIND] != NOTHING)]
            if not len(found):  # a strip thinner than a pixel may still fill one
                assert mask.any(0).sum() <= 1 or mask.any(1).sum() <= 1
                left_out += 1
                continue
            if augment.scale and min(found[0, 2] - found[0, 0], found[0, 3] - found[0, 1]) < 1.6:
                continue
            rows_of, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            tight = [columns[0], rows_of[0], columns[-1] + 1, rows_of[-1] + 1]
            assert np.abs(found[0, :4] - tight).max() <= (0.52 if augment.scale else 0)
            seen += 1
    assert seen > 500 and bool(left_out) == bool(augment.crop or augment.scale)
    objects.check(moved, most, HEIGHT, WIDTH)
    whole = Views(augment, HEIGHT, WIDTH, 1)
    ids += 0 if not augment.cutout else views.count * torch.from_numpy(random.integers(0, whole.holes, count))
    assert np.array_equal(whole.moved(torch.from_numpy(its), ids).numpy(), moved)  # neither cutout nor colour moves any


def one(box, kind=OBJECT, augment=None, view=0):
    views = Views(augment, 100, 100)
    found = views.moved(torch.from_numpy(packed([rows(np.array([box]), 7, kind)])), torch.tensor([view]))
    return found[0, 0].tolist()


def test_what_is_cut_off_by_hand():
    """A view of dx = 10: the image moves ten pixels to the left."""
    augment, view = Augment(crop=10), 10
    assert one([20, 0, 30, 9], OBJECT, augment, view) == [10, 0, 20, 9, 7, OBJECT]
    assert one([0, 0, 13.5, 9], OBJECT, augment, view) == [0, 0, 3.5, 9, 7, OBJECT]  # 3.5 of 13.5: over a quarter
    assert one([0, 0, 13, 9], OBJECT, augment, view) == [0, 0, 3, 9, 7, CROWD]
    assert one([0, 0, 13, 9], CROWD, augment, view) == [0, 0, 3, 9, 7, CROWD]
    assert one([0, 0, 11, 9], OBJECT, augment, view) == [0, 0, 1, 9, 7, CROWD]
    assert one([0, 0, 10.5, 9], CROWD, augment, view) == [0] * 6  # half a pixel of it is left
    assert one([0, 0, 10, 9], OBJECT, augment, view) == [0] * 6
    assert one([20, 0, 20.5, 9], OBJECT, augment, view) == [10, 0, 10.5, 9, 7, OBJECT]  # was as thin before
    assert one([20, 0, 30, 9], OBJECT, Augment(flip=True), 1) == [70, 0, 80, 9, 7, OBJECT]


def test_zoom_by_hand():
    """Of 1 + 0.4 * 4 / 4 about the middle, and of 1 - 0.4 about the corner at the lower right."""
    augment = Augment(scale=0.4)
    near = 1 + (3 * 5 + 2) * 5 + 2
    assert one([50, 40, 60, 50], OBJECT, augment, near) == pytest.approx([50, 36, 64, 50, 7, OBJECT], abs=1e-4)
    far = 1 + (7 * 5 + 4) * 5 + 4
    assert one([50, 40, 60, 50], OBJECT, augment, far) == pytest.approx([70, 64, 76, 70, 7, OBJECT], abs=1e-4)
    corner = 1 + (3 * 5 + 4) * 5 + 4  # 900 of 4900 square pixels are left
    assert one([0, 0, 50, 50], OBJECT, augment, corner) == pytest.approx([0, 0, 30, 30, 7, CROWD], abs=1e-4)


def test_padding_stays_last_when_an_object_leaves():
    its = packed([rows(np.array([[0, 0, 5, 5], [50, 50, 60, 60]]), np.array([1, 2]))] * 2)
    found = Views(Augment(crop=10), 100, 100).moved(torch.from_numpy(its), torch.tensor([10, 0]))
    assert found[0].tolist() == [[40, 50, 50, 60, 2, 1], [0] * 6] and found[1].tolist() == its[1].tolist()


def split(n=40):
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    start = random.integers(0, 8, (n, 3, 2))
    boxes = np.concatenate([start, start + random.integers(2, 9, (n, 3, 2))], 2)
    return Split(images, packed([rows(each[: k % 4], k % 5) for k, each in enumerate(boxes)]))


@pytest.mark.parametrize("rows_of_batches", ["single", "views"])
def test_a_batch_has_the_objects_of_its_views(rows_of_batches):
    augment, data = Augment(crop=3, flip=True, scale=0.25, colour=0.3), split()
    loader = Loader(data, augment, 8, seed=0, rows=rows_of_batches)
    from_disk = Loader(data, augment, 8, seed=0, rows=rows_of_batches, memory_limit=0)
    views = Views(augment, 16, 16)
    for step, (batch, read) in zip(range(7), zip(loader.batches(), from_disk.batches(), strict=False), strict=False):
        kept = torch.from_numpy(data.truth)[batch.index]
        assert torch.equal(batch.y, views.moved(kept, batch.view)) and batch.y.dtype == torch.float32
        assert torch.equal(batch.y, read.y) and torch.equal(batch.x, read.x)
        objects.check(batch.y.numpy(), 5, 16, 16)
        again = loader.batch_at(step)
        assert torch.equal(again.y, batch.y) and torch.equal(again.x, batch.x)
        mine = Loader(data, augment, 8, seed=0, rows=rows_of_batches, rank=1, world=2).batch_at(step)
        assert torch.equal(mine.y, torch.cat([half[1::2] for half in batch.y.split(8)]))
    plain = next(eval_batches(data, 8))
    assert torch.equal(plain.y, torch.from_numpy(data.truth[:8]))


def test_views_that_cannot_be_counted_are_refused():
    images = np.zeros((2, 2048, 2048, 1), np.uint8)
    with pytest.raises(UsageError, match="too many views"):
        Loader(Split(images, np.zeros(2, np.int64)), Augment(crop=64, cutout=8, scale=0.1, views=10**6), 2, 0)
