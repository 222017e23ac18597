"""Phases, buffers and invariances of the methods on features, and numbers by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.ab import ab_loss
from kdcompress.methods.at import at_loss
from kdcompress.methods.fsp import fsp_loss
from kdcompress.methods.ft import ft_loss
from kdcompress.methods.nst import mean_kernel, nst_loss
from kdcompress.methods.ofd import Margin, ofd_loss
from kdcompress.methods.vid import Gaussian, vid_loss
from kdcompress.models.taps import Stage, Taps, TapShapes


def shapes(*channels, size=8):
    stages = tuple(Stage(f"s{i}", c, size >> i, size >> i, 4 << i) for i, c in enumerate(channels))
    return TapShapes(stages, None, 5, (3, 32, 32))


def method(name, ours=(4, 6, 8), theirs=(4, 10, 12), **options):
    torch.manual_seed(0)
    kind = methods[name]
    pairs = [(i, i) for i in range(len(ours))]
    return kind(kind.parse_options(name, options), shapes(*ours), shapes(*theirs), pairs)


def taps(*channels, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(6, c, size >> i, size >> i, generator=generator) for i, c in enumerate(channels)]
    return Taps(torch.zeros(6, 5), maps, None)


def enlarged(x):
    return F.interpolate(x, scale_factor=4, mode="nearest")


@pytest.mark.parametrize("loss", [at_loss, nst_loss, lambda s, t: ft_loss(s, t, 1), lambda s, t: ft_loss(s, t, 2)])
def test_losses_of_unit_vectors_do_not_depend_on_the_resolution(loss):
    (s,), (t,) = taps(6).stages, taps(6, seed=1).stages
    assert loss(enlarged(s), enlarged(t)).item() == pytest.approx(loss(s, t).item(), rel=1e-4)


def test_fsp_does_not_depend_on_the_resolution():
    s, t = taps(4, 6).stages, taps(4, 6, seed=1).stages
    large = fsp_loss(tuple(map(enlarged, s)), tuple(map(enlarged, t)))
    assert large.item() == pytest.approx(fsp_loss(tuple(s), tuple(t)).item(), rel=1e-4)


def test_at_of_disjoint_attention_is_2_and_of_proportional_attention_is_0():
    left = torch.zeros(3, 2, 4, 4)
    left[..., :2] = 5.0
    assert at_loss(left, left.flip(3)).item() == pytest.approx(2)
    assert at_loss(left, -9 * left[:, :1]).item() == pytest.approx(0, abs=1e-6)


def test_a_map_that_is_0_has_finite_gradients():
    for loss in (at_loss, nst_loss, lambda s, t: ft_loss(s, t, 1)):
        dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
        loss(dead, torch.randn(2, 3, 4, 4)).backward()
        assert torch.isfinite(dead.grad).all()


def test_both_forms_of_the_nst_kernel_agree():
    x, y = torch.randn(2, 40, 9), torch.randn(2, 30, 9)
    assert torch.allclose(mean_kernel(x, y), (x @ y.mT).square().mean((1, 2)), rtol=1e-4)


def test_ab_by_hand():
    student, teacher = torch.tensor([0.5, 2.0, -3.0, 0.5]), torch.tensor([9.0, 9.0, -0.1, 0.0])
    as_map = [t.reshape(1, 4, 1, 1) for t in (student, teacher)]
    assert ab_loss(*as_map, margin=1.0).item() == pytest.approx((0.5**2 + 0 + 0 + 1.5**2) / 4)


def test_ofd_by_hand():
    student, teacher = torch.tensor([-5.0, 0.5, -0.2, 1.0]), torch.tensor([-3.0, -3.0, -0.5, 4.0])
    as_map = [t.reshape(1, 1, 2, 2) for t in (student, teacher)]
    # The margin lifts -3 to -1: a student below is left alone, one above is not.
    assert ofd_loss(*as_map, torch.tensor([-1.0])).item() == pytest.approx((0 + 1.5**2 + 0.3**2 + 3**2) / 4)


def test_ofd_margin_is_the_mean_of_all_negatives_seen_and_0_without_any():
    margin = Margin(2)
    for values in ([[-1.0, 2.0, -3.0, 0.0], [1.0, 2.0, 3.0, 0.0]], [[-8.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]):
        got = margin(torch.tensor(values).reshape(1, 2, 2, 2), learn=True)
    assert got.tolist() == margin(torch.full((1, 2, 2, 2), -9.0), learn=False).tolist() == [-4.0, 0.0]


def test_ofd_margins_are_taken_at_the_beginning_of_a_training_and_saved():
    ofd = method("ofd", margin_share=0.1)
    teacher = taps(4, 10, 12)
    ofd.eval().terms(None, taps(4, 6, 8), teacher, 0.0)
    assert all(margin.count.sum() == 0 for margin in ofd.margins)
    ofd.train().terms(None, taps(4, 6, 8), teacher, 0.1)
    taken = [margin(None, learn=False) for margin in ofd.margins]
    ofd.terms(None, taps(4, 6, 8), taps(4, 10, 12, seed=1), 0.2)
    for margin, before, x in zip(ofd.margins, taken, teacher.stages):
        expected = [float(channel[channel < 0].mean()) for channel in x.transpose(0, 1)]
        assert margin(None, learn=False).tolist() == before.tolist() == pytest.approx(expected, rel=1e-5)
    assert {"margins.0.total", "margins.0.count"} <= set(ofd.state_dict())


def test_vid_variance_begins_as_asked_and_is_best_at_the_squared_error():
    scale = Gaussian(3, 2, variance=0.3).scale
    assert F.softplus(scale).tolist() == pytest.approx([0.3, 0.3])
    mean, teacher = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5)
    scale = torch.tensor([math.log(math.expm1(0.25 - 1e-5))], requires_grad=True)
    vid_loss(mean, teacher, scale).backward()
    assert scale.grad.item() == pytest.approx(0, abs=1e-5)


def test_ft_trains_the_paraphraser_first_and_the_translator_after():
    ft = method("ft", paraphrase_share=0.2).train()
    optimizer = torch.optim.SGD(ft.parameters(), lr=0.1, weight_decay=0.1)
    moved = {}
    for progress in (0.0, 0.1, 0.2, 0.9):
        optimizer.zero_grad()
        terms = ft.terms(None, taps(4, 6, 8), taps(4, 10, 12), progress)
        assert set(terms) == {"ft", "paraphrase"}
        sum(terms.values()).backward()
        moved[progress] = {n.split(".")[0] for n, p in ft.named_parameters() if p.grad.abs().sum() > 0}
        before = ft.paraphraser(taps(4, 10, 12, seed=2).stages[2])
        optimizer.step()
        assert torch.equal(before, ft.paraphraser(taps(4, 10, 12, seed=2).stages[2]))
    assert moved[0.0] == moved[0.1] == {"encoder", "decoder"}
    assert moved[0.2] == moved[0.9] == {"translator"}
    assert not list(ft.paraphraser.parameters()) and "paraphraser.0.weight" in ft.state_dict()


def test_ft_factors_are_those_of_the_encoder_when_its_share_ended():
    ft = method("ft").train()
    for _ in range(300):  # running statistics settle
        ft.terms(None, taps(4, 6, 8), taps(4, 10, 12), 0.0)
    ft.terms(None, taps(4, 6, 8), taps(4, 10, 12), 0.5)
    x = taps(4, 10, 12).stages[2]
    assert torch.allclose(ft.paraphraser(x), ft.encoder.eval()(x), atol=1e-5)


def test_fitnets_hint_is_in_the_middle_or_where_asked_and_ends_with_its_share():
    assert method("fitnets").pair == (1, 1) and method("fitnets", stage=2).pair == (2, 2)
    with pytest.raises(UsageError, match="no such pair"):
        method("fitnets", stage=3)
    options = method("fitnets", hint_share=0.3).options
    assert [options.strength(progress) for progress in (0.0, 0.3, 0.31)] == [1, 1, 0]
    assert method("fitnets").options.strength(1.0) == 1


def test_fsp_needs_two_stages():
    with pytest.raises(UsageError, match="two pairs of stages"):
        method("fsp", ours=(4,), theirs=(4,))


@pytest.mark.parametrize("name", ["fitnets", "at", "fsp", "nst", "ab", "ft", "vid", "ofd"])
def test_feature_terms_are_float32_and_near_the_same_under_autocast(name):
    auxiliary = method(name).eval()
    student, teacher = taps(4, 6, 8), taps(4, 10, 12, seed=1)
    exact = auxiliary.terms(None, student, teacher, 0.6)
    with torch.autocast("cpu", torch.bfloat16):
        rough = auxiliary.terms(None, student, teacher, 0.6)
    for term, value in rough.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[term].item(), rel=0.03, abs=1e-3)
