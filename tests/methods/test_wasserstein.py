"""Methods that carry one distribution over into another: numbers by hand, and what formulas do not show."""

import math

import pytest
import torch
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.methods.wkd_f import EPS, gaussian_loss
from kdcompress.methods.wkd_l import class_costs, falling, transport, wkd_loss
from kdcompress.models.build import build
from kdcompress.training.distillation import Distillation, Member

NORM = (0.5,) * 3, (0.25,) * 3


def distil(name, teacher="resnet14", **options):
    torch.manual_seed(0)
    teacher = build(teacher, 5, 3) if isinstance(teacher, str) else teacher
    student = Member(build("resnet8", 5, 3), *NORM)
    return Distillation(student, Member(teacher, *NORM), {name: options}, torch.rand(2, 3, 32, 32)).train()


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"x": x, "y": torch.randint(0, 5, (n,), generator=generator)}


@pytest.mark.parametrize("name", ["wkd-l", "wkd-f"])
def test_terms_are_float32_under_autocast(name):
    with torch.autocast("cpu", torch.bfloat16):
        terms = distil(name)(**batch(), progress=0.01)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())


def test_all_mass_that_moves_from_one_class_to_another_costs_what_they_cost():
    logs = torch.log(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    cost = torch.tensor([[0.0, 0.3, 0.6], [0.3, 0.0, 0.5], [0.6, 0.5, 0.0]])
    found = transport(logs, torch.log(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])), cost, 0.05, 5)
    assert found.tolist() == pytest.approx([0.6, 0.0], abs=1e-6)
    half = torch.log(torch.tensor([[0.5, 0.5, 0.0]]))
    assert transport(half, logs[1:], cost, 0.05, 5).item() == pytest.approx(0.15, rel=1e-5)


def test_the_entropy_spreads_two_equal_distributions_by_hand():
    """Of two classes with half the mass each, 1 in 1 + e^(c / regularization) changes its place."""
    half, cost = torch.full((1, 2), 0.5).log(), torch.tensor([[0.0, 0.2], [0.2, 0.0]])
    expected = 0.2 / (1 + math.exp(0.2 / 0.1))
    assert transport(half, half, cost, 0.1, 5).item() == pytest.approx(expected, rel=1e-5)


def test_wkd_l_is_finite_with_the_least_regularization_and_logits_far_apart():
    torch.manual_seed(0)
    cost = 1 - torch.eye(6)
    student = (100 * torch.randn(8, 6)).half().requires_grad_()
    loss = wkd_loss(student, 100 * torch.randn(8, 6).half(), torch.arange(8) % 6, cost, 0.5, 0.02, 100)
    loss.backward()
    assert loss.isfinite() and 0 < loss <= 1 and student.grad.isfinite().all()


def test_classes_of_proportional_features_cost_nothing_and_unseen_ones_most():
    features = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0))
    features[1] = 5 * features[0].flip(0)  # the order of the images does not matter
    centred = features - features.mean(2, keepdim=True)
    kernels = torch.cat([centred.mT @ centred, torch.zeros(1, 4, 4)])
    cost = class_costs(kernels, 2.0)
    assert cost[0, 1] == pytest.approx(0, abs=1e-5) and cost.diagonal().tolist() == [0] * 4
    assert cost[3, :3].tolist() == pytest.approx([1 - math.exp(-2)] * 3) and torch.allclose(cost, cost.T)


def test_wkd_l_learns_the_costs_at_the_beginning_of_a_training_and_saves_them():
    distillation = distil("wkd-l", learn_share=0.1)
    wkd = distillation.auxiliary()["wkd-l"]
    every_pair = 1 - math.exp(-1)
    assert wkd.cost.tolist() == [[pytest.approx(every_pair * (i != j)) for j in range(5)] for i in range(5)]
    distillation.eval()(**batch(), progress=0.0)
    assert wkd.kernels.abs().sum() == 0
    distillation.train()
    for seed in (0, 1):
        distillation(**batch(70, seed), progress=0.1)
    learnt = wkd.cost.clone()
    expected = torch.zeros(5, 64, 64)
    for seed in (0, 1):
        b = batch(70, seed)
        pooled = distillation.teacher(b["x"]).pooled
        for x, label in zip(pooled - pooled.mean(1, keepdim=True), b["y"]):
            expected[label] += torch.outer(x, x)
    assert torch.allclose(learnt, class_costs(expected, 1.0), atol=1e-5) and 0 < learnt[0, 1] < every_pair
    distillation(**batch(70, 2), progress=0.2)
    assert torch.equal(wkd.cost, learnt)
    assert {"methods.wkd-l.cost", "methods.wkd-l.kernels"} <= set(distillation.state_dict())


def test_wkd_l_compares_wide_features_by_a_projection_that_is_always_the_same():
    first, second = (distil("wkd-l", width=16).auxiliary()["wkd-l"] for _ in range(2))
    assert first.kernels.shape == (5, 16, 16) and torch.equal(first.projection, second.projection)
    assert torch.allclose(first.projection @ first.projection.T, torch.eye(16), atol=1e-5)
    distil("wkd-l", width=16)(**batch(), progress=0.0)


def test_a_teacher_without_a_pooled_feature_is_named():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="teacher has no pooled feature"):
        distil("wkd-l", teacher=net)


def test_the_weight_falls_with_the_cosine():
    shares = [falling(progress, 0.6) for progress in (0.0, 0.6, 0.7, 0.8, 1.0)]
    assert shares == pytest.approx([1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, 0])
    assert falling(1.0, 1.0) == 1
    terms = [distil("wkd-f").eval()(**batch(), progress=progress)["wkd-f"].item() for progress in (0.6, 0.8125)]
    assert terms[1] == pytest.approx(terms[0] / 2, rel=1e-4)


def test_wkd_f_by_hand():
    """Means 2 and 1, deviations 0 and 3: 4 * 1 + 3^2, but for what is added to variances."""
    student, teacher = torch.full((2, 1, 4, 4), 2.0), torch.tensor([4.0, -2.0]).repeat(2, 1, 2, 1)
    deviations = (math.sqrt(9 + EPS) - math.sqrt(EPS)) ** 2
    assert gaussian_loss(student, teacher, 4.0).item() == pytest.approx(4 + deviations, rel=1e-5)


def test_wkd_f_sees_neither_places_nor_resolution():
    torch.manual_seed(0)
    s, t = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    shuffled = s.flatten(2)[..., torch.randperm(16)].unflatten(2, (4, 4))
    large = t.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert gaussian_loss(shuffled, large, 4.0).item() == pytest.approx(gaussian_loss(s, t, 4.0).item(), rel=1e-5)


def test_wkd_f_of_maps_of_one_place_compares_means():
    s, t = torch.randn(3, 4, 1, 1, requires_grad=True), torch.randn(3, 4, 1, 1)
    loss = gaussian_loss(s, t, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx((s - t).square().sum().item() / 3, rel=1e-5) and s.grad.isfinite().all()
