"""Mixed images: pixels and labels held to formulas, image by image."""

from collections import Counter

import numpy as np
import pytest
import torch

from kdcompress.data.batch import Batch
from kdcompress.data.mixing import Mixing
from kdcompress.recipe import Augment


def batch(n=8, channels=2, height=6, width=9, classes=5):
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)
    return Batch(x, torch.arange(n) % classes, torch.arange(n), torch.zeros(n, dtype=torch.long))


def test_mixup_blends_pixels_and_labels_by_the_same_share():
    before = batch()
    mixing = Mixing(Augment(mixup=0.8), 5, seed=1)
    found = mixing(before, 7)
    shares = mixing.drawn(7, 8, 6, 9)[:, 0, 0, 0] / 256
    assert found.index is None and found.x.dtype == torch.uint8 and len(set(shares)) == 8
    for i, share in enumerate(shares):
        other = (i + 4) % 8
        expected = share * before.x[i].double() + (1 - share) * before.x[other].double()
        assert (found.x[i] - expected).abs().max() <= 0.5
        truth = np.zeros(5)
        truth[i % 5] += share
        truth[other % 5] += 1 - share
        assert np.allclose(found.y[i], truth, atol=1e-6)


def test_cutmix_pastes_a_rectangle_and_labels_follow_its_area():
    before = batch(64, 1, 12, 20)
    mixing = Mixing(Augment(cutmix=1.0), 5, seed=0)
    found = mixing(before, 0)
    own = mixing.drawn(0, 64, 12, 20)[:, 0]
    assert set(np.unique(own)) == {0, 256}
    areas = []
    for i in range(64):
        inside = own[i] == 0
        rows, columns = inside.any(1), inside.any(0)
        assert np.array_equal(inside, rows[:, None] & columns[None, :])
        assert all(np.count_nonzero(np.diff(np.r_[0, line.astype(int), 0])) <= 2 for line in (rows, columns))
        other = (i + 32) % 64
        expected = np.where(inside, before.x[other, 0], before.x[i, 0])
        assert np.array_equal(found.x[i, 0], expected)
        areas.append(inside.mean())
        assert found.y[i, i % 5] >= 1 - inside.mean() - 1e-6 and found.y[i].sum() == pytest.approx(1)
    assert 0.25 < np.mean(areas) < 0.5  # half, less what lies outside of the image


def test_shares_have_their_distribution():
    drawn = Mixing(Augment(mixup=0.4), 2, seed=0).drawn(0, 20_000, 1, 1)[:, 0, 0, 0] / 256
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)


def test_both_are_drawn_alike_often():
    mixing = Mixing(Augment(mixup=1.0, cutmix=1.0), 2, seed=0)
    kinds = Counter(len(np.unique(own)) > 1 for own in mixing.drawn(0, 2_000, 16, 16))
    assert 800 < kinds[True] < 1_100  # a blend is alike all over; so is a rectangle that covers nothing


def test_steps_and_seeds_differ_and_are_the_same_again():
    mixing = Mixing(Augment(mixup=1.0), 5, seed=1)
    assert torch.equal(mixing(batch(), 3).x, Mixing(Augment(mixup=1.0), 5, seed=1)(batch(), 3).x)
    assert not torch.equal(mixing(batch(), 3).x, mixing(batch(), 4).x)
    assert not torch.equal(mixing(batch(), 3).x, Mixing(Augment(mixup=1.0), 5, seed=2)(batch(), 3).x)


@pytest.mark.parametrize("augment", [Augment(mixup=1.0), Augment(cutmix=1.0), Augment(mixup=0.2, cutmix=1.0)])
def test_several_processes_mix_as_one_does(augment):
    whole = batch(16)
    one = Mixing(augment, 5, 0)(whole, 2)
    for rank in range(4):
        part = Batch(whole.x[rank::4], whole.y[rank::4])
        found = Mixing(augment, 5, 0, rank, 4)(part, 2)
        assert torch.equal(found.x, one.x[rank::4]) and torch.equal(found.y, one.y[rank::4])


def test_sets_of_labels_are_mixed_too():
    before = batch()
    labels = torch.tensor([[1, 1], [0, 1]] * 4, dtype=torch.uint8)
    found = Mixing(Augment(mixup=1.0), 2, 0)(Batch(before.x, labels), 0)
    assert found.y.dtype == torch.float32 and torch.allclose(found.y[:, 1], torch.ones(8))


def test_channels_last_stays():
    before = batch(channels=3)
    mixed = Mixing(Augment(cutmix=1.0), 5, 0)
    x = before.x.contiguous(memory_format=torch.channels_last)
    assert mixed(Batch(x, before.y), 0).x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mixed(Batch(x, before.y), 0).x, mixed(before, 0).x)
