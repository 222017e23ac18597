"""What a part of an answer stands for: by hand, and against a second writing of the formula."""

import math

import numpy as np
import pytest
import torch

from kdcompress.training.packing import Largest, Whole, change, told


def packed_and_back(z, most, dtype=torch.float32):
    packing = Largest("logits", z.shape[1], dtype, most)
    packed = packing.packed(z)
    assert packed.dtype == torch.uint8 and packed.shape == (len(z), packing.bytes)
    return packing.unpacked(packed)


def test_by_hand():
    p = torch.tensor([[0.5, 0.10, 0.25, 0.15], [0.05, 0.05, 0.1, 0.8]])
    kept = packed_and_back(p.log() + torch.tensor([[3.0], [-2.0]]), 2)
    expected = torch.tensor([[0.5, 0.125, 0.25, 0.125], [0.05, 0.05, 0.1, 0.8]])
    torch.testing.assert_close(kept.softmax(1), expected, rtol=0, atol=3e-4)
    moved = (abs(0.10 - 0.125) + abs(0.15 - 0.125)) / 2
    divergence = 0.10 * math.log(0.10 / 0.125) + 0.15 * math.log(0.15 / 0.125)
    found = told(change(p.log(), expected.log()), 2)
    assert found["answers"] == 2
    assert found["moved_t1"] == pytest.approx(moved / 2, abs=1e-6)  # the second answer is what it was
    assert found["kl_t1"] == pytest.approx(divergence / 2, abs=1e-6)


@pytest.mark.parametrize(("classes", "most", "size"), [(10, 3, 11), (256, 5, 17), (257, 5, 22), (1000, 15, 62)])
def test_bytes_of_an_answer(classes, most, size):
    assert Largest("logits", classes, torch.float32, most).bytes == size
    assert Whole("logits", classes, torch.float32, torch.float16).bytes == 2 * classes


def test_imagenet_at_16_views():
    views, checksum = 16 * 1_281_167, 4
    size = {k: views * (Largest("logits", 1000, torch.float32, k).bytes + checksum) / 1e9 for k in (5, 10, 15)}
    assert size == pytest.approx({5: 0.533, 10: 0.943, 15: 1.353}, abs=1e-3)


@pytest.mark.parametrize(("classes", "most"), [(3, 1), (10, 3), (300, 7), (40_000, 2)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_the_largest_are_kept_and_the_rest_is_spread(classes, most, scale):
    rng = np.random.default_rng(classes)
    z = scale * rng.normal(size=(16, classes)) + 5
    kept = packed_and_back(torch.from_numpy(z).float(), most).double().numpy()
    p, q = (np.exp(each - each.max(1, keepdims=True)) for each in (z, kept))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    order = np.argsort(-p, 1)
    top, rest = order[:, :most], order[:, most:]
    # fp16 rounds a difference d to 2^-11 of it, which changes its probability by so much
    allowed = 2**-10 * (1 + np.abs(z - z.max(1, keepdims=True)))
    wanted = np.take_along_axis(p, top, 1)
    assert (np.abs(np.take_along_axis(q, top, 1) - wanted) <= 2e-3 + np.take_along_axis(allowed, top, 1) * wanted).all()
    others = np.take_along_axis(q, rest, 1)
    assert np.ptp(others, 1).max() == 0
    np.testing.assert_allclose(others.sum(1), np.take_along_axis(p, rest, 1).sum(1), atol=2e-3, rtol=0.1)
    assert (kept.argmax(1) == z.argmax(1)).all()


def test_one_answer_behind_another_part():
    """Its bytes begin at an odd place."""
    z, pooled = torch.randn(1, 40_000), Whole("pooled", 3, torch.float32, torch.float32)
    logits, feature = Largest("logits", 40_000, torch.float32, 2), torch.randn(1, 3)
    packed = torch.cat([torch.zeros(1, 1, dtype=torch.uint8), logits.packed(z), pooled.packed(feature)], 1)
    _, first, second = packed.split([1, logits.bytes, pooled.bytes], 1)
    assert torch.equal(pooled.unpacked(second), feature) and logits.unpacked(first).argmax() == z.argmax()


def test_logits_are_still_logits():
    """Their level is kept too, for methods that compare more than probabilities."""
    z = torch.tensor([[12.5, 3.0, -4.0, 1.0]])
    kept = packed_and_back(z, 2)
    assert kept[0, :2].tolist() == [12.5, 3.0]
    assert kept[0, 2] == kept[0, 3] == pytest.approx(math.log((math.exp(-4) + math.exp(1)) / 2), abs=5e-3)


def test_what_has_no_logarithm_and_what_is_out_of_range():
    z = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf], [1e6, 0.0, 0.0, 0.0]])
    kept = packed_and_back(z, 2)
    assert kept.isfinite().all() and kept.softmax(1)[:, 0].tolist() == [1.0, 1.0]
    assert packed_and_back(z[:1].bfloat16(), 2, torch.bfloat16).dtype == torch.bfloat16
