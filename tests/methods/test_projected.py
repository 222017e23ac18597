"""Methods that project the student's features into the teacher's space: numbers by hand, and what formulas do not
show."""

import math

import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.methods.scalekd import Projector, changing, direction_loss
from kdcompress.methods.srd import srd_loss
from kdcompress.methods.vkd import Moments, standardized, vkd_loss, whitened
from kdcompress.models.build import build
from kdcompress.models.taps import Stage
from kdcompress.training.distillation import Distillation, Member

NORM = (0.5,) * 3, (0.25,) * 3
POOLED = ["srd", "vkd"]


def distil(name, student="resnet8", teacher="resnet14", **options):
    torch.manual_seed(0)
    student, teacher = (build(net, 5, 3) if isinstance(net, str) else net for net in (student, teacher))
    return Distillation(Member(student, *NORM), Member(teacher, *NORM), {name: options}, torch.rand(2, 3, 32, 32))


def batch(n=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"x": x, "y": torch.randint(0, 5, (n,), generator=generator)}


@pytest.mark.parametrize("name", [*POOLED, "scalekd"])
def test_terms_are_float32_under_autocast(name):
    distillation = distil(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        terms = distillation(**batch(), progress=0.6)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())


@pytest.mark.parametrize("name", POOLED)
def test_network_without_a_pooled_feature_is_named(name):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="student has no pooled feature"):
        distil(name, student=net)


def test_srd_by_hand():
    """Standardised, one side is (1, -1) and the other (-1, 1): each image is 2 away, and 2^4 is 16."""
    student, teacher = torch.tensor([[5.0], [1.0]]), torch.tensor([[10.0], [30.0]])
    assert srd_loss(student, teacher, 4.0).item() == pytest.approx(math.log(16), rel=1e-5)
    assert srd_loss(student, -teacher, 4.0).item() == pytest.approx(math.log(1e-12), rel=1e-5)


def test_srd_has_the_gradient_of_the_logarithm_of_the_sum():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    (ours,) = torch.autograd.grad(srd_loss(student, teacher, 4.0), student)
    s, t = ((x - x.mean(0)) / x.std(0, correction=0) for x in (student, teacher))
    (of_the_sum,) = torch.autograd.grad(torch.log((s - t).abs().pow(4).sum()), student)
    assert torch.allclose(ours, of_the_sum, rtol=1e-3, atol=1e-6)


def test_srd_of_one_image_teaches_nothing_and_is_finite():
    student = torch.randn(1, 4, requires_grad=True)
    loss = srd_loss(student, torch.randn(1, 4), 4.0)
    loss.backward()
    assert loss.isfinite() and student.grad.abs().sum() == 0


def test_vkd_by_hand():
    """A channel of the teacher's is -1 or 1 about its mean, the other constant; the projection swaps the student's."""
    teacher = torch.tensor([[3.0, 7.0], [5.0, 7.0]])
    moments = Moments(2)
    moments.learn(teacher)
    assert moments.mean.tolist() == [4, 7] and moments.covariance.tolist() == [[1, 0], [0, 0]]
    target = standardized(teacher, moments.mean, moments.covariance)
    assert target.tolist() == [[-1, 0], [1, 0]]
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert vkd_loss(torch.tensor([[2.0, -1.0], [0.0, 4.0]]), swap, target).item() == (0 + 2**2 + 3**2 + 0) / 4


def test_vkd_whitened_features_are_uncorrelated_and_of_one_scale():
    x = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6).abs() + 5
    moments = Moments(6)
    for rows in x.split([100, 900, 3000]):
        moments.learn(rows)
    assert torch.allclose(moments.covariance, torch.cov(x.T, correction=0), rtol=1e-3, atol=1e-3)
    found = torch.cov(whitened(x, moments.mean, moments.covariance).T)
    assert found.diagonal().max() < 1.01 and (found - found.diagonal().diag()).abs().max() < 0.1


@pytest.mark.parametrize("pair", [("resnet8", "resnet8x4"), ("resnet8x4", "resnet8"), ("resnet8", "resnet14")])
def test_vkd_projection_keeps_lengths_or_forgets_and_stays_so_while_it_is_trained(pair):
    distillation = distil("vkd", *pair).train()
    project = distillation.auxiliary()["vkd"].project
    before = project.weight.detach().clone()
    optimizer = torch.optim.SGD(distillation.parameters(), lr=0.5)
    for _ in range(3):
        distillation(**batch())["vkd"].backward()
        optimizer.step()
        optimizer.zero_grad()
    p = project.weight.detach()
    assert (p - before).abs().max() > 1e-3
    small = p.T @ p if len(p) >= p.shape[1] else p @ p.T
    assert torch.allclose(small, torch.eye(len(small)), atol=1e-5)


def test_vkd_remembers_the_teachers_moments_and_only_in_training():
    distillation = distil("vkd", normalize="whiten")
    moments = distillation.auxiliary()["vkd"].moments
    distillation.eval()(**batch())
    assert moments.count == 0
    distillation.train()(**batch())
    distillation(**batch(4))
    seen = torch.cat([distillation.teacher(batch(n)["x"]).pooled for n in (6, 4)])
    assert moments.count == 10
    assert torch.allclose(moments.mean, seen.mean(0), rtol=1e-3, atol=1e-5)
    assert torch.allclose(moments.covariance, torch.cov(seen.T, correction=0), rtol=1e-2, atol=1e-4)
    assert "methods.vkd.moments.covariance" in distillation.state_dict()


@pytest.mark.parametrize("normalize", ["standardize", "whiten"])
def test_vkd_of_a_teacher_that_says_one_thing_is_finite(normalize):
    teacher = build("resnet14", 5, 3)
    nn.init.zeros_(next(p for p in teacher.parameters() if p.ndim == 4))
    terms = distil("vkd", teacher=teacher, normalize=normalize).train()(**batch())
    assert terms["vkd"].isfinite()


def test_scalekd_by_hand():
    """Opposite directions are 2 apart, right angles the square root of 2; lengths do not count."""
    student = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).T.reshape(1, 2, 1, 2)
    teacher = torch.tensor([[-1.0, 0.0], [2.0, 0.0]]).T.reshape(1, 2, 1, 2)
    assert direction_loss(student, teacher).item() == pytest.approx((4 + 2) / 2)
    assert changing(student).flatten().tolist() == [1.5, -1.5, -2.5, 2.5]


def test_scalekd_does_not_depend_on_the_resolution():
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, 4, 4) for _ in range(2)]
    large = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in maps]
    for view in (torch.Tensor.float, changing):
        small = direction_loss(*map(view, maps)).item()
        assert direction_loss(*map(view, large)).item() == pytest.approx(small, rel=1e-5)


def test_scalekd_queries_look_all_over_the_students_map():
    torch.manual_seed(0)
    projector = Projector(Stage("s", 6, 4, 4, 8), Stage("t", 64, 7, 5, 8)).eval()
    assert projector.attention.num_heads == 2
    x = torch.randn(2, 6, 4, 4, requires_grad=True)
    found = projector(x)
    assert found.shape == (2, 64, 7, 5)
    (reached,) = torch.autograd.grad(found[:, :, 0, 0].square().sum(), x)
    assert (reached.abs().sum(1) > 0).all()


def test_scalekd_compares_the_last_stages_that_are_asked_for():
    assert [len(distil("scalekd", stages=n).auxiliary()["scalekd"].features) for n in (1, 2, 9)] == [1, 2, 3]


def test_scalekd_of_a_teacher_whose_map_is_constant_is_finite():
    student = torch.randn(2, 5, 4, 4, requires_grad=True)
    loss = direction_loss(changing(student), changing(torch.full((2, 5, 4, 4), 7.0)))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
