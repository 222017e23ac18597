"""Methods that compare images with each other, or channels: what formulas do not show."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods.crd import nce_loss
from kdcompress.methods.ickd import ickd_loss
from kdcompress.methods.pkt import pkt_loss
from kdcompress.methods.rkd import angle_loss, distance_loss
from kdcompress.methods.sp import sp_loss
from kdcompress.methods.sskd import kept
from kdcompress.models.build import build
from kdcompress.models.taps import Taps
from kdcompress.training.distillation import Distillation, Member

NAMES = ["cc", "crd", "ickd", "pkt", "rkd", "sp", "sskd"]
IMAGES = 40


def distil(name, images=IMAGES, side=32, **options):
    torch.manual_seed(0)
    student, teacher = (Member(build(net, 5, 3), (0.5,) * 3, (0.25,) * 3) for net in ("resnet8", "resnet14"))
    return Distillation(student, teacher, {name: options}, torch.rand(2, 3, 32, side), images=images).train()


def batch(n=6):
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "y": torch.randint(0, 5, (n,), generator=generator),
        "index": torch.randperm(IMAGES, generator=generator)[:n],
    }


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_float32_under_autocast(name):
    distillation = distil(name)
    with torch.autocast("cpu", torch.bfloat16):
        terms = distillation(**batch(), progress=0.6)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())


@pytest.mark.parametrize("name", ["cc", "crd", "pkt", "rkd", "sskd"])
def test_network_without_a_pooled_feature_is_named(name):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    student, teacher = (Member(n, (0.5,) * 3, (0.25,) * 3) for n in (net, build("resnet14", 5, 3)))
    with pytest.raises(UsageError, match="student has no pooled feature"):
        Distillation(student, teacher, {name: {}}, torch.rand(2, 3, 32, 32), images=IMAGES)


def test_rkd_sees_neither_position_nor_scale_nor_rotation():
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    turned = 3 * x @ torch.linalg.qr(torch.randn(4, 4))[0] + 7
    assert distance_loss(turned, x) < 1e-10 and angle_loss(turned, x) < 1e-10
    assert distance_loss(torch.randn(6, 4), x) > 1e-3


def test_rkd_angles_in_chunks_are_the_angles_and_keep_little():
    torch.manual_seed(0)
    student, teacher = torch.randn(37, 5, requires_grad=True), torch.randn(37, 8)
    results = []
    for chunk in (37, 4):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.numel()) or t, lambda t: t):
            loss = angle_loss(student, teacher, chunk)
        results.append((loss.item(), torch.autograd.grad(loss, student)[0], sum(saved)))
    (whole, gradient, much), (parts, same, little) = results
    assert parts == pytest.approx(whole, rel=1e-5) and torch.allclose(gradient, same, atol=1e-7)
    assert much > 37**3 and little < 37**2 * 4


def test_rkd_of_equal_images_has_a_small_gradient():
    student = torch.ones(4, 3, requires_grad=True)
    loss = distance_loss(student, torch.eye(4)) + angle_loss(student, torch.eye(4))
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1


def test_sp_of_two_images_by_hand():
    # G is the identity on one side, all 1 / sqrt(2) on the other.
    apart, alike = torch.eye(2), torch.ones(2, 2)
    expected = 2 * ((1 - 0.5**0.5) ** 2 + 0.5) / (64 * 2)
    assert sp_loss(apart, alike).item() == pytest.approx(expected, rel=1e-6)


def test_pkt_of_opposite_images_is_finite():
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = pkt_loss(student, torch.eye(2))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_ickd_does_not_see_the_resolution():
    x = torch.randn(2, 5, 4, 4)
    assert ickd_loss(F.interpolate(x, (8, 8), mode="nearest"), x) < 1e-10


def test_crd_needs_the_number_of_images():
    with pytest.raises(UsageError, match="images="):
        distil("crd", images=0)


def test_crd_memory_takes_the_first_embedding_then_averages():
    crd = distil("crd", momentum=0.75).auxiliary()["crd"]
    index, y, old = torch.tensor([3, 9]), torch.tensor([1, 4]), crd.banks.clone()
    first, second = (F.normalize(torch.randn(2, 2, 128), dim=2) for _ in range(2))
    crd.remember(index, y, list(first))
    assert torch.allclose(crd.banks[:, index], first, atol=1e-6) and crd.labels[index].tolist() == [1, 4]
    keys = crd.remember(index, y, list(second))
    expected = F.normalize(0.75 * first + 0.25 * second, dim=2)
    assert torch.allclose(torch.stack(keys), expected, atol=1e-6)
    assert torch.allclose(crd.banks[:, index], expected, atol=1e-6)
    others = [i for i in range(IMAGES) if i not in index]
    assert torch.equal(crd.banks[:, others], old[:, others]) and (crd.labels[others] == -1).all()


def test_crd_partition_is_that_of_the_first_batch():
    distillation = distil("crd")
    crd = distillation.auxiliary()["crd"]
    assert crd.log_z.isnan().all()
    distillation(**batch())
    first = crd.log_z.clone()
    assert first.isfinite().all()
    distillation(**batch())
    assert torch.equal(crd.log_z, first)


def test_crd_partition_of_equal_scores_by_hand():
    # exp(2) each: Z is exp(2) times the number of images.
    crd = distil("crd").auxiliary()["crd"]
    assert crd.partition(0, torch.full((3,), 2.0), torch.full((3, 8), 2.0)).exp().item() == pytest.approx(
        IMAGES * torch.tensor(2.0).exp().item(), rel=1e-5
    )


def test_crd_does_not_push_away_images_of_the_same_class():
    positive, negative = torch.zeros(2), torch.zeros(2, 4, requires_grad=True)
    allowed = torch.tensor([[True, True, False, False], [False] * 4])
    nce_loss(positive, negative, allowed, 0.0, 10).backward()
    assert ((negative.grad > 0) == allowed).all()


def test_sskd_gives_the_originals_first_then_the_rotations():
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    given = Batch(x, torch.tensor([1, 2]), torch.tensor([5, 6]))
    made = distil("sskd").auxiliary()["sskd"].prepare(given, 0.0)
    assert made.x.shape == (8, 3, 8, 8) and made.x.dtype == torch.uint8 and len(made.y) == len(made.index) == 2
    assert made.x.is_contiguous(memory_format=torch.channels_last)
    for turns in range(4):
        for i in range(2):
            assert torch.equal(made.x[2 * turns + i], torch.rot90(x[i], turns, (1, 2)))


def test_sskd_keeps_the_right_and_the_nearest_of_the_wrong():
    scores = torch.tensor([[3.0, 2, 1, 0]] * 4)
    target = torch.tensor([3, 0, 1, 2])  # ranks 3, 0, 1, 2
    assert kept(scores, target, 0.67).tolist() == [False, True, True, True]
    assert kept(scores, target, 0.34).tolist() == [False, True, True, False]
    assert kept(scores, target, 0.0).tolist() == [False, True, False, False]


def test_sskd_head_learns_first_and_teaches_then():
    distillation = distil("sskd", head_share=0.5)
    sskd = distillation.auxiliary()["sskd"]
    terms = distillation(**batch(), progress=0.49)
    assert terms["ss"] == 0 and terms["head"] > 0
    sum(terms.values()).backward()
    assert sskd.teacher_head[0].weight.grad.abs().sum() > 0
    taught = distillation(**batch(), progress=0.51)
    assert taught["ss"] > 0 and taught["head"] == 0
    with torch.no_grad():
        sskd.teacher_head[0].weight.add_(1.0)  # weight decay and momentum go on
    again = distillation(**batch(), progress=0.52)
    assert again["ss"].item() == pytest.approx(taught["ss"].item(), rel=1e-5)


def test_sskd_head_finds_the_originals_of_the_rotated():
    """One step's loss falls with the right similarities, and the rows of both sides are as prepare() lays them out."""
    sskd = distil("sskd").auxiliary()["sskd"]
    sskd.teacher_head, sskd.student_head, sskd.frozen_head = nn.Identity(), nn.Identity(), nn.Identity()
    pooled, logits = torch.eye(3).repeat(4, 1), torch.zeros(12, 5)
    taps = Taps(logits, [], pooled)
    terms = sskd.terms(Batch(torch.zeros(12, 3, 8, 8), torch.zeros(3).long()), taps, taps, 0.0)
    e = torch.tensor(1.0).exp()
    assert terms["head"].item() == pytest.approx(-(e / (e + 2)).log().item(), rel=1e-5)


def test_sskd_refuses_images_that_are_not_square():
    with pytest.raises(UsageError, match="square"):
        distil("sskd", side=40)
