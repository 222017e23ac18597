"""The methods made for the maps of dense tasks: numbers by hand, what they ignore, what they refuse."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.cwd import cwd_loss
from kdcompress.methods.mgd import generator, mgd_loss
from kdcompress.methods.pearson import pearson_loss, standardized_channels
from kdcompress.models.taps import Stage, Taps, TapShapes

NAMES = ["cwd", "mgd", "pearson"]


def shapes(*channels, size=8):
    stages = tuple(Stage(f"s{i}", c, size >> i, size >> i, 4 << i) for i, c in enumerate(channels))
    return TapShapes(stages, None, 5, (3, 32, 32))


def method(name, ours=(4, 6, 8), theirs=(4, 10, 12), size=8, **options):
    torch.manual_seed(0)
    kind = methods[name]
    pairs = [(i, i) for i in range(len(ours))]
    return kind(kind.parse_options(name, options), shapes(*ours, size=size), shapes(*theirs, size=size), pairs)


def taps(*channels, size=8, seed=0):
    """As a detector's pyramid levels: no pooled feature, no classifier, no logits that are read."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(6, c, size >> i, size >> i, generator=generator) for i, c in enumerate(channels)]
    return Taps(torch.zeros(6, 0), [m.requires_grad_() for m in maps], None)


def two_maps(n=3, c=4, side=6):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, c, side, side, generator=generator) for _ in range(2)]


def of_identity(channels):
    """A generating block that gives a map that is not negative as it is."""
    block = generator(channels, channels)
    for layer in (block[0], block[2]):
        torch.nn.init.dirac_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return block


def test_cwd_of_two_places_by_hand():
    # T = 2: the teacher's channel is softmax((1, 0)), the student's is (1/2, 1/2).
    e = math.e
    p = (e / (e + 1), 1 / (e + 1))
    expected = 4 * sum(each * math.log(2 * each) for each in p)
    student, teacher = torch.full((1, 1, 1, 2), 3.0), torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    assert cwd_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_cwd_of_a_teacher_that_is_active_at_one_place_is_the_students_surprise():
    teacher = torch.zeros(2, 3, 4, 4)
    teacher[..., 1, 2] = 1e4
    assert cwd_loss(torch.zeros(2, 3, 4, 4), teacher, 1.0).item() == pytest.approx(math.log(16), rel=1e-6)


def test_cwd_does_not_see_what_is_added_to_a_channel():
    student, teacher = two_maps()
    shifted = student + 5 * torch.arange(4.0)[:, None, None]
    assert cwd_loss(shifted, teacher, 1.0).item() == pytest.approx(cwd_loss(student, teacher, 1.0).item(), rel=1e-4)
    assert cwd_loss(teacher + 7, teacher, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_pearson_by_hand():
    # Centred: (-1, 0, 1) and (-1, 1, 0): r = 1 / 2.
    student, teacher = (torch.tensor(v).view(1, 1, 1, 3) for v in ([4.0, 5.0, 6.0], [0.0, 20.0, 10.0]))
    assert pearson_loss(student, teacher).item() == pytest.approx(0.5, rel=1e-6)
    assert pearson_loss(-teacher, teacher).item() == pytest.approx(2, rel=1e-6)


def test_pearson_does_not_see_the_scale_and_the_mean_of_a_channel():
    student, teacher = two_maps()
    scale, shift = torch.tensor([1e-3, 1.0, 30.0, 4.0])[:, None, None], torch.arange(4.0)[:, None, None]
    changed = student * scale + shift * scale
    assert pearson_loss(changed, teacher).item() == pytest.approx(pearson_loss(student, teacher).item(), rel=1e-3)
    assert pearson_loss(teacher * scale + shift, teacher).item() == pytest.approx(0, abs=1e-6)


def test_pearson_is_of_a_batch_and_no_mean_of_its_images():
    """Each image agrees with the teacher's but for its mean, which only the batch shows."""
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    student = teacher + torch.tensor([0.0, 10.0])[:, None, None, None]
    each = [pearson_loss(student[i : i + 1], teacher[i : i + 1]).item() for i in range(2)]
    assert each == pytest.approx([0, 0], abs=1e-6)
    assert pearson_loss(student, teacher).item() > 0.5
    assert methods["pearson"].needs.whole_batch
    assert not methods["cwd"].needs.whole_batch and not methods["mgd"].needs.whole_batch


@pytest.mark.parametrize("value", [0.0, 5.0, 1234.5])
def test_a_constant_channel_is_0_and_has_no_gradient(value):
    x = torch.randn(2, 2, 7, 9)
    x[:, 1] = value
    x.requires_grad_()
    assert (standardized_channels(x)[:, 1] == 0).all()
    pearson_loss(x, torch.randn(2, 2, 7, 9)).backward()
    assert torch.isfinite(x.grad).all() and (x.grad[:, 1] == 0).all() and x.grad[:, 0].abs().sum() > 0
    dead = torch.zeros(2, 2, 7, 9)
    assert pearson_loss(dead, dead) == 0 and pearson_loss(dead, two_maps()[0][:2, :2, :1, :1].expand(-1, -1, 7, 9)) > 0


def test_mgd_of_a_block_of_identity_by_hand():
    # The block lets a map that is not negative through: what is masked is 0 instead of 3, in 5 of 8 places.
    whole = torch.full((2, 4, 2, 4), 3.0)
    keep = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.bool).expand(2, 1, 2, 4)
    assert mgd_loss(whole, whole, keep, of_identity(4)).item() == pytest.approx(9 * 5 / 8)
    assert mgd_loss(whole, whole, torch.ones_like(keep), of_identity(4)).item() == 0


@pytest.mark.parametrize("mask, shape", [("places", (500, 1, 4, 6)), ("channels", (500, 3, 1, 1))])
def test_mgd_masks_the_share_that_it_is_asked_by_torchs_random_numbers_alone(mask, shape):
    mgd = method("mgd", masked=0.3, mask=mask)
    x = torch.zeros(500, 3, 4, 6)
    torch.manual_seed(7)
    first = mgd.keep(x)
    assert first.shape == shape and first.dtype == torch.bool
    assert 1 - first.float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert not torch.equal(first, mgd.keep(x))
    torch.manual_seed(7)
    assert torch.equal(first, mgd.keep(x))
    assert method("mgd", masked=0.0).keep(x).all()


def test_mgd_learns_what_is_masked_from_its_surroundings():
    mgd = method("mgd", ours=(4,), theirs=(4,), masked=0.3)
    (smooth,) = (F.interpolate(x, scale_factor=4) for x in torch.rand(1, 6, 4, 2, 2))
    student, teacher = (Taps(torch.zeros(6, 0), [smooth], None) for _ in range(2))
    optimizer = torch.optim.Adam(mgd.parameters(), lr=0.02)
    found = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = mgd.terms(None, student, teacher, 0.5)["mgd"]
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.3 * found[0]


def test_a_generating_block_is_as_wide_as_the_teachers_stage_within_its_limit():
    mgd = method("mgd", max_mid_channels=10)
    assert [block[0].weight.shape[:2] for block in mgd.generators] == [(4, 4), (10, 10), (10, 12)]
    assert [block[2].weight.shape[:2] for block in mgd.generators] == [(4, 4), (10, 10), (12, 10)]


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_stands_where_widths_differ_alone(name):
    first, *others = method(name).adapters
    assert not list(first.parameters())
    assert [layer.weight.shape for layer in others] == [(10, 6, 1, 1), (12, 8, 1, 1)]
    assert all(layer.bias is None for layer in others)


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_and_every_module_has_a_gradient_and_the_teacher_has_none(name):
    auxiliary = method(name).train()
    student, teacher = taps(4, 6, 8), taps(4, 10, 12, seed=1)
    teacher.stages = [t.detach() for t in teacher.stages]
    (loss,) = auxiliary.terms(None, student, teacher, 0.5).values()
    loss.backward()
    assert loss.dtype == torch.float32 and loss.ndim == 0
    for tensor in (*student.stages, *auxiliary.parameters()):
        assert torch.isfinite(tensor.grad).all() and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("name, options", [("cwd", {}), ("pearson", {}), ("mgd", {"masked": 0.0})])
def test_equal_maps_have_no_loss(name, options):
    auxiliary = method(name, theirs=(4, 6, 8), **options)
    student = taps(4, 6, 8)
    student.stages = [s.detach().abs() for s in student.stages]
    if name == "mgd":
        auxiliary.generators = torch.nn.ModuleList(of_identity(c) for c in (4, 6, 8))
    (loss,) = auxiliary.terms(None, student, student, 0.5).values()
    assert loss.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", [lambda s, t: cwd_loss(s, t, 1.0), pearson_loss])
def test_losses_do_not_depend_on_the_resolution(loss):
    small = two_maps()
    large = [F.interpolate(x, scale_factor=4, mode="nearest") for x in small]
    assert loss(*large).item() == pytest.approx(loss(*small).item(), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_unequal_sizes_meet_at_the_smaller(name):
    auxiliary = method(name, masked=0.0) if name == "mgd" else method(name)
    student, teacher = taps(4, 6, 8), taps(4, 10, 12, size=16, seed=1)
    pooled = Taps(teacher.logits, [F.avg_pool2d(t, 2) for t in teacher.stages], None)
    expected, got = (auxiliary.terms(None, student, t, 0.5)[name].item() for t in (pooled, teacher))
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_near_the_same_under_autocast(name):
    auxiliary = method(name).eval()
    student, teacher = taps(4, 6, 8), taps(4, 10, 12, seed=1)
    torch.manual_seed(1)
    exact = auxiliary.terms(None, student, teacher, 0.6)[name]
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = auxiliary.terms(None, student, teacher, 0.6)[name]
    assert rough.dtype == torch.float32 and rough.item() == pytest.approx(exact.item(), rel=0.03)


def test_cwd_leaves_out_stages_of_one_place_and_refuses_where_there_is_no_other():
    cwd = method("cwd", size=4)  # 4, 2, 1
    assert cwd.compared == [(0, 0), (1, 1)] and len(cwd.adapters) == 2
    student, teacher = taps(4, 6, 8, size=4), taps(4, 10, 12, size=4, seed=1)
    two = sum(cwd_loss(adapt(s), t, 1.0) for adapt, s, t in zip(cwd.adapters, student.stages[:2], teacher.stages[:2]))
    assert cwd.terms(None, student, teacher, 0.5)["cwd"].item() == pytest.approx(10 * two.item(), rel=1e-6)
    with pytest.raises(UsageError, match="maps of one place"):
        method("cwd", ours=(4,), theirs=(4,), size=1)
