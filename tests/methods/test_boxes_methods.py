"""The methods that look at boxes, on pairs of detectors: numbers by hand, what they ignore, what they refuse."""

import math
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.bckd import bckd_loss
from kdcompress.methods.crosskd import aligned
from kdcompress.methods.dense import divergence
from kdcompress.methods.fgd import GcBlock, attention, fgd_loss, masks, relation_loss
from kdcompress.methods.ld import valuable_region
from kdcompress.models.build import build
from kdcompress.models.copying import copied
from kdcompress.models.detectors.head_gfl import anchors, thresholds
from kdcompress.recipe import Augment
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.opening import not_cacheable

THIN = {"width": 8, "levels": 3, "depth": 2}
PAIRS = {"fgd": ("fcos", 12), "bckd": ("retinanet", 12), "crosskd": ("fcos", 8), "ld": ("gfl", 12)}  # teacher's width
NAMES = list(PAIRS)
SIDE = 64


def objects(*rows, padding=1):
    return torch.tensor([[*rows, *[[0.0] * 6] * padding]], dtype=torch.float32)


Y = torch.cat(
    [objects([4, 6, 40, 44, 2, 1], [30, 8, 60, 30, 0, 1]), objects([8, 8, 24, 24, 1, 1], [32, 32, 64, 64, 0, 2])]
)
X = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def detector(head, seed=0, **options):
    """With statistics in its batch norms and answers that differ from place to place."""
    return Member(copied(network(head, seed, tuple(options.items()))), (0.5,) * 3, (0.25,) * 3)


@cache
def network(head, seed, options):
    torch.manual_seed(seed)
    net = build(f"{head}/small-resnet10x1", 3, 3, {**THIN, **dict(options)}).train()
    for path, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        elif path in ("logits", "codes", "distances", "bins"):
            torch.nn.init.normal_(module.weight, std=0.1)
    with torch.no_grad():
        net(torch.randn(8, 3, SIDE, SIDE))
    return net


def made(name, student=None, teacher=None, **options):
    torch.manual_seed(0)
    head, width = PAIRS[name]
    student, teacher = student or detector(head), teacher or detector(head, 1, width=width)
    return Distillation(student, teacher, {name: options}, X, task="detection")


def refused(name, match, **networks):
    options = networks.pop("options", {})
    with pytest.raises(UsageError, match=match) as caught:
        made(name, **networks, **options)
    return str(caught.value)


def own_terms(distillation, x=X, y=Y):
    return {term: value for term, value in distillation(x, y, 0.6).items() if term != "task"}


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_twice_over_has_the_same_terms_and_padding_none(name):
    distillation = made(name).eval()
    once = own_terms(distillation)
    assert all(value > 0 for value in once.values())
    for x, y in ((X.repeat(2, 1, 1, 1), Y.repeat(2, 1, 1)), (X, F.pad(Y, (0, 0, 0, 5)))):
        again = own_terms(distillation, x, y)
        assert {key: value.item() for key, value in again.items()} == pytest.approx(
            {key: value.item() for key, value in once.items()}, rel=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("y", [torch.zeros(2, 1, 6), objects([5, 5, 6, 6, 0, 1], padding=0).repeat(2, 60, 1)])
def test_no_object_and_many_tiny_ones_train(name, y):
    distillation = made(name).train()
    sum(own_terms(distillation, y=y).values()).backward()
    found = [p.grad for p in distillation.parameters() if p.grad is not None]
    assert found and all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("name", NAMES)
def test_every_module_of_the_method_learns_and_the_teacher_does_not(name):
    distillation = made(name).train()
    sum(own_terms(distillation).values()).backward()
    assert all(p.grad is not None for p in distillation.methods.parameters())
    assert distillation.student.net.pyramid.out[0][0].weight.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in distillation.teacher.parameters())
    assert not any("teacher" in key or "attached" in key for key in distillation.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_no_shape_and_no_branch_depends_on_values(name):
    distillation = made(name).train().to("meta")
    sum(distillation(X.to("meta"), Y.to("meta"), 0.6).values()).backward()


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_near_the_same_under_autocast(name):
    distillation = made(name).eval()
    exact = own_terms(distillation)
    with torch.autocast("cpu", torch.bfloat16):
        rough = own_terms(distillation)
    assert all(value.dtype == torch.float32 for value in rough.values())
    assert {k: v.item() for k, v in rough.items()} == pytest.approx({k: v.item() for k, v in exact.items()}, rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_is_told_which_methods_work(name):
    nets = [build("resnet8", 3, 3) for _ in range(2)]
    with pytest.raises(UsageError, match=f"{name} cannot teach this task: no method can that compares boxes") as caught:
        Distillation(*nets, name, X)
    assert "kd, " in str(caught.value) and "pearson" in str(caught.value)


@pytest.mark.parametrize("name", ["bckd", "crosskd", "ld"])
def test_a_teacher_that_sees_another_size_is_refused(name):
    head, _ = PAIRS[name]
    large = detector(head, 1, finest=16)  # as many places, in other pixels
    large.size = 2 * SIDE
    assert "student 64x64, teacher 128x128" in refused(name, "images of one size", teacher=large)


class WithoutBoxes(torch.nn.Module):
    """A network whose answers have logits and a loss, and no boxes."""

    def __init__(self):
        super().__init__()
        self.net = detector("fcos").net

    def forward(self, x):
        found = self.net(x)
        return SimpleNamespace(logits=found.logits, loss=found.loss, shipped=found.shipped)


def test_a_network_without_boxes_is_refused():
    for role in ("student", "teacher"):
        nets = {"student": detector("fcos"), "teacher": detector("fcos")} | {role: Member(WithoutBoxes())}
        assert "retinanet/BACKBONE" in refused("bckd", f"the {role} gives none", **nets)


def test_answers_for_different_places_are_refused():
    said = refused("bckd", "bckd compares logits place by place", teacher=detector("fcos", 1))
    assert "student at 756 places, teacher at 84 places" in said and "reviewkd" in said
    with pytest.raises(UsageError, match="kd compares logits place by place"):
        Distillation(detector("fcos"), detector("fcos", levels=4), "kd", X, task="detection")


def test_answers_are_not_kept():
    assert not_cacheable(made("bckd"), Augment()) == "bckd reads the teacher's answer"


# bckd


def test_bckd_of_one_place_by_hand():
    student, teacher = (
        torch.zeros(1, 1, 2),
        torch.tensor([[[math.log(3.0), -math.log(3.0)]]]),
    )  # shares 1/2, and 3/4, 1/4
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), torch.tensor([[[2.0, 0.0, 6.0, 4.0]]])
    classes, apart = bckd_loss(student, teacher, *boxes)
    assert classes.item() == pytest.approx(2 * 0.25 * math.log(2), rel=1e-5)  # the best score is 3/4: divided by 1
    assert apart.item() == pytest.approx(0.25 * (1 - 1 / 3), rel=1e-5)


def test_background_that_both_know_adds_nothing():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 9, 4, generator=generator) for _ in range(2))
    boxes = [torch.tensor([0.0, 0.0, 9.0, 9.0]) + torch.rand(2, 9, 4, generator=generator) for _ in range(2)]
    more = [torch.cat([x, torch.full((2, 5000, 4), -12.0)], 1) for x in (student, teacher)]
    further = [torch.cat([x, torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(2, 5000, 4)], 1) for x in boxes]
    for got, wanted in zip(bckd_loss(*more, *further), bckd_loss(student, teacher, *boxes), strict=True):
        assert got.item() == pytest.approx(wanted.item(), rel=0.01)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    net = detector("gfl")
    for name in ("bckd", "crosskd", "ld"):
        terms = own_terms(made(name, copied(net), copied(net)).eval())
        assert all(abs(value.item()) < 1e-4 for value in terms.values()), (name, terms)


# crosskd


def test_a_channel_gets_the_teachers_mean_and_deviation():
    generator = torch.Generator().manual_seed(0)
    student = 5 * torch.randn(3, 4, 6, 5, generator=generator) + 2
    student[:, 1] = 7.0
    teacher = torch.randn(3, 4, 6, 5, generator=generator) * torch.arange(4.0)[:, None, None]
    student.requires_grad_()
    found = aligned(student, teacher)
    for c in (0, 2, 3):
        assert found[:, c].mean().item() == pytest.approx(teacher[:, c].mean().item(), abs=1e-5)
        assert found[:, c].std().item() == pytest.approx(teacher[:, c].std().item(), abs=1e-4)
    assert torch.corrcoef(torch.stack([found[:, 3].flatten(), student[:, 3].flatten()]))[0, 1] > 0.9999
    assert torch.allclose(found[:, 1], teacher[:, 1].mean())
    found.sum().backward()
    assert student.grad.isfinite().all() and (student.grad[:, 1] == 0).all()


@pytest.mark.parametrize("head, last", [("fcos", "distances"), ("retinanet", "codes"), ("gfl", "bins")])
@pytest.mark.parametrize("reused", [0, 1, 2])
def test_the_students_towers_learn_and_its_last_layers_do_not(head, last, reused):
    distillation = made("crosskd", detector(head), detector(head, 1), reused=reused).train()
    sum(own_terms(distillation).values()).backward()
    net = distillation.student.net
    assert net.logits.weight.grad is None and getattr(net, last).weight.grad is None
    for tower in net.towers.values():
        learning = [layer.weight.grad is not None for layer in tower.convolutions]
        assert learning == [i < 2 - reused for i in range(2)]
    assert net.pyramid.out[0][0].weight.grad.abs().sum() > 0


def test_heads_that_do_not_fit_are_told_what_to_set():
    assert "student.model" in refused("crosskd", "one family", student=detector("gfl"))
    assert "student 8, teacher 12" in refused("crosskd", "same width", teacher=detector("fcos", width=12))
    said = refused("crosskd", "so many", student=detector("fcos", depth=1), options={"reused": 2})
    assert "0 to 1" in said and "1 in the student and 2 in the teacher" in said
    made("crosskd", student=detector("fcos", depth=1), reused=1)  # of unequal depth
    foreign = Member(build("torchvision/ssdlite320_mobilenet_v3_large", 3, 3), (0.5,) * 3, (0.25,) * 3)
    refused("crosskd", "one family", student=foreign, teacher=copied(foreign))


# ld


def test_a_divergence_is_in_nats_and_by_the_temperature_squared():
    student, teacher = torch.zeros(1, 1, 4, 2), torch.tensor([2 * math.log(3.0), 0.0]).expand(1, 1, 4, 2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert divergence(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_the_valuable_region_is_where_diou_says():
    with torch.no_grad():
        answer = detector("gfl", scale=4.0).net.eval()(torch.randn(2, 3, SIDE, SIDE))
    found = valuable_region(answer, Y, 0.25)
    *_, least = thresholds(answer.places, answer.counts, Y[..., :4])
    expected = torch.zeros_like(found)
    for n, m, p in [(n, m, p) for n, m in ((0, 0), (0, 1), (1, 0)) for p in range(len(answer.places))]:
        a, b = anchors(answer.places)[p].tolist(), Y[n, m, :4].tolist()
        width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in range(2))
        union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - width * height
        hull = [max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in range(2)]
        off = [(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in range(2)]
        diou = width * height / union - (off[0] ** 2 + off[1] ** 2) / (hull[0] ** 2 + hull[1] ** 2)
        expected[n, p] |= 0.25 * least[n, m].item() <= diou <= least[n, m].item()
    assert torch.equal(found, expected) and 0.05 < found.float().mean() < 0.9


def test_heads_without_the_distributions_are_told():
    assert "set student.model to gfl/BACKBONE" in refused(
        "ld", "student's head does not have", student=detector("fcos")
    )
    assert "set teacher.model" in refused("ld", "teacher's head does not have", teacher=detector("fcos"))
    said = refused("ld", "same distances", student=detector("gfl", reach=8))
    assert "student 8, of the teacher 16" in said


# fgd


def test_masks_by_hand():
    """Cells of 8 pixels: an object of 2 x 3 of them, a smaller one in it, a crowd and a hair's breadth."""
    y = objects([8, 0, 32, 16, 0, 1], [9, 1, 15, 7, 0, 1], [40, 0, 56, 32, 0, 2], [63.5, 31.5, 64, 32, 0, 1])
    foreground, background = masks(y, (32, 64), (4, 8))
    wanted = torch.zeros(4, 8)
    wanted[:2, 1:4] = 1 / 6
    wanted[0, 1] = 1.0
    wanted[3, 7] = 1.0
    assert torch.allclose(foreground[0, 0], wanted)
    empty = (wanted == 0) & ~((torch.arange(8) >= 5) & (torch.arange(8) < 7))
    assert torch.allclose(background[0, 0], empty / empty.sum())
    nothing, everywhere = masks(torch.zeros(1, 2, 6), (32, 64), (4, 8))
    assert nothing.sum() == 0 and torch.allclose(everywhere, torch.tensor(1 / 32))
    whole, rest = masks(objects([0, 0, 64, 32, 0, 1]), (32, 64), (4, 8))
    assert torch.allclose(whole, torch.tensor(1 / 32)) and rest.sum() == 0


def pyramid(side=8, channels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randn(2, channels, side >> i, side >> i, generator=generator) for _ in range(2)) for i in range(2)
    ]


def all_terms(maps, blocks):
    return [*fgd_loss(maps, Y, (SIDE, SIDE), 0.5), relation_loss(maps, *blocks)]


def blocks(channels):
    return [torch.nn.ModuleList(GcBlock(channels) for _ in range(2)) for _ in range(2)]


def test_fgd_depends_on_neither_width_nor_resolution():
    small = pyramid()
    fine = [tuple(F.interpolate(x, scale_factor=2) for x in pair) for pair in small]
    wide = [tuple(x.repeat(1, 3, 1, 1) for x in pair) for pair in small]
    aligned_y = Y.clone()
    aligned_y[..., :4] = (Y[..., :4] / 16).round() * 16  # whole cells of all levels
    expected = [*fgd_loss(small, aligned_y, (SIDE, SIDE), 0.5), relation_loss(small, *blocks(4))]
    for maps, channels in ((fine, 4), (wide, 12)):
        got = [*fgd_loss(maps, aligned_y, (SIDE, SIDE), 0.5), relation_loss(maps, *blocks(channels))]
        assert [x.item() for x in got] == pytest.approx([x.item() for x in expected], rel=1e-3)


def test_fgds_weights_are_the_papers_at_the_papers_size():
    """There, the terms are the paper's sums."""
    student, teacher = (torch.randn(1, 256, 100, 223, generator=torch.Generator().manual_seed(i)) for i in range(2))
    y = objects([0, 0, 111.5, 50, 0, 1])
    foreground, background, looks = fgd_loss([(student, teacher)], y, (100, 223), 0.5)
    (places, channels), (mine, my) = attention(teacher, 0.5), attention(student, 0.5)
    apart = (student - teacher).square() * places * channels
    inside = apart[..., :50, :112].sum()
    assert foreground.item() == pytest.approx(inside.item() / (50 * 112), rel=1e-3)
    assert background.item() == pytest.approx((apart.sum() - inside).item() / (22_300 - 50 * 112), rel=1e-3)
    expected = (places - mine).abs().sum() + (channels - my).abs().sum()
    assert looks.item() == pytest.approx(expected.item(), rel=1e-3)
    both = torch.nn.ModuleList([GcBlock(256)]), torch.nn.ModuleList([GcBlock(256)])
    relation = relation_loss([(student, teacher)], *both)
    assert relation.item() == pytest.approx((student - teacher).square().sum().item(), rel=1e-3)


def test_a_block_begins_as_identity_and_then_adds_a_summary_of_all_places():
    block, x = GcBlock(6), torch.randn(2, 6, 3, 5)
    assert torch.equal(block(x), x)
    torch.nn.init.normal_(block.change[3].weight)
    added = block(x) - x
    assert added.abs().sum() > 0 and torch.allclose(added, added[..., :1, :1].expand_as(added), atol=1e-5)


def test_fgds_options_are_the_papers_symbols():
    weights = methods["fgd"].parse_options("fgd", {})
    assert (weights.foreground, weights.background, weights.attention, weights.relation) == (1e-3, 5e-4, 5e-4, 5e-6)
    doubled = own_terms(made("fgd", background=1e-3).eval())
    single = own_terms(made("fgd").eval())
    assert doubled["background"].item() == pytest.approx(2 * single["background"].item(), rel=1e-4)
