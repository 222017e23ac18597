"""Losses against hand-computed numbers and formulas written a second way."""

import math

import pytest
import torch
from torch import nn

from kdcompress.methods.kd import kd_loss
from kdcompress.methods.reviewkd import ABF, hcl_loss


def test_kd_of_two_classes_by_hand():
    # T=2: p = softmax([1, 0]), q = softmax([0, 0]) = (1/2, 1/2)
    e = math.e
    p = (e / (e + 1), 1 / (e + 1))
    expected = 4 * sum(pi * math.log(pi / 0.5) for pi in p)
    got = kd_loss(torch.zeros(3, 2), torch.tensor([[2.0, 0.0]]).repeat(3, 1), temperature=2)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_kd_equals_the_definition_summed_over_classes_averaged_over_the_batch():
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 100).double(), torch.randn(7, 100).double()
    total = 0.0
    for s, t in zip(student / 4, teacher / 4):
        p, q = t.exp() / t.exp().sum(), s.exp() / s.exp().sum()
        total += float((p * (p / q).log()).sum())
    assert kd_loss(student, teacher, 4).item() == pytest.approx(16 * total / 7, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kd_is_finite_at_a_logit_gap_of_200(dtype):
    student = torch.tensor([[100.0, -100.0]], dtype=dtype, requires_grad=True)
    loss = kd_loss(student, -student.detach(), 1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    assert loss.item() == pytest.approx(200, rel=1e-2)


def test_losses_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    a, b = torch.randn(4, 10), torch.randn(4, 10)
    assert kd_loss(a.repeat(5, 1), b.repeat(5, 1), 4).item() == pytest.approx(kd_loss(a, b, 4).item(), rel=1e-5)
    x, y = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    once, often = hcl_loss(x, y), hcl_loss(x.repeat(5, 1, 1, 1), y.repeat(5, 1, 1, 1))
    assert often.item() == pytest.approx(once.item(), rel=1e-5)


def test_hcl_of_constant_maps_by_hand():
    # The difference is 3 everywhere, at every pooled size: its square is 9 whatever the weights.
    assert hcl_loss(torch.full((2, 5, 8, 8), 4.0), torch.ones(2, 5, 8, 8)).item() == pytest.approx(9)


def test_hcl_of_a_checkerboard_by_hand():
    # +1 and -1 in turn: 1 at full size, 0 once pooled; weights 1, 1/2, 1/4, 1/8.
    board = 1 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float()
    assert hcl_loss(board.expand(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)).item() == pytest.approx(1 / 1.875)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 14, 28])
def test_hcl_equals_pooling_both_maps(side):
    torch.manual_seed(side)
    s, t = torch.randn(2, 4, side, side), torch.randn(2, 4, side, side)
    parts, weights = [nn.functional.mse_loss(s, t)], [1.0]
    for size in (4, 2, 1):
        if size < side:
            pool = nn.AdaptiveAvgPool2d(size)
            weights.append(0.5 ** len(weights))
            parts.append(nn.functional.mse_loss(pool(s), pool(t)))
    expected = sum(w * p for w, p in zip(weights, parts)) / sum(weights)
    assert hcl_loss(s, t).item() == pytest.approx(expected.item(), rel=1e-5)


def test_abf_weighs_both_inputs_by_attention():
    torch.manual_seed(0)
    fusion = ABF(6, 4, 5, fuse=True).eval()
    x, deeper = torch.randn(2, 6, 8, 8), torch.randn(2, 4, 4, 4)
    out, passed = fusion(x, deeper, (8, 8))
    reduced = fusion.reduce(x)
    up = deeper.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    conv = fusion.attention[0]
    z = torch.sigmoid(
        torch.einsum("oc,nchw->nohw", conv.weight[:, :, 0, 0], torch.cat([reduced, up], 1)) + conv.bias[:, None, None]
    )
    expected = reduced * z[:, 0:1] + up * z[:, 1:2]
    assert torch.allclose(passed, expected, atol=1e-5)
    assert torch.allclose(out, fusion.expand(expected), atol=1e-5)
    assert out.shape == (2, 5, 8, 8)
