"""Detectors of our own: what they give, how places and objects are assigned, and the loss against other formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS

from kdcompress.errors import UsageError
from kdcompress.models.answers import Dense, answer_of, class_logits, shipped
from kdcompress.models.build import build
from kdcompress.models.counting import count_parameters
from kdcompress.models.detectors import head_retinanet, heads
from kdcompress.models.detectors.head_fcos import FCOSAnswer, assigned, centerness, distances
from kdcompress.models.evaluating import evaluating
from kdcompress.models.taps import Tapped

THIN = {"width": 16, "levels": 3, "depth": 1}
TWO_STAGE = {"width": 16, "levels": 4, "hidden": 16, "samples": 16}
OPTIONS = {"fasterrcnn": TWO_STAGE, "maskrcnn": {**TWO_STAGE, "depth": 1}}  # of heads that have others
BACKBONES = ["small-resnet10x1", "timm/resnet18", "timm/mobilenetv3_small_050", "torchvision/shufflenet_v2_x0_5"]


def objects(*rows, padding=1):
    return torch.tensor([[*rows, *[[0.0] * 6] * padding]], dtype=torch.float32)


def grid(side=64, strides=(8, 16, 32), reach=8.0):
    """Places as the network has them."""
    net = build("fcos/small-resnet10x1", 3, 3, {**THIN, "reach": reach})
    assert net.pyramid.strides == list(strides)
    return net.places([torch.zeros(1, 1, side // stride, side // stride) for stride in strides])


@pytest.mark.parametrize(("head", "each"), [("fcos", 1), ("retinanet", 9), ("gfl", 1)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_backbone_makes_a_detector(backbone, head, each):
    net = build(f"{head}/{backbone}", 7, 3, THIN)
    with evaluating(net), torch.no_grad():
        answer = answer_of(net(torch.randn(2, 3, 64, 96)))
        assert isinstance(answer, Dense)
        boxes, scores = shipped(answer)
    places = each * (8 * 12 + 4 * 6 + 2 * 3)
    assert boxes.shape == (2, places, 4) and scores.shape == (2, places, 7) == class_logits(answer).shape
    assert boxes[..., 0::2].amax() <= 96 and boxes[..., 1::2].amax() <= 64 and boxes.amin() >= 0
    assert scores.min() >= 0 and scores.max() <= 1


def test_a_tiny_detector_is_tiny():
    assert count_parameters(build("fcos/small-resnet10x1", 10, 3, {"width": 32, "levels": 3, "depth": 1})) < 300_000


def test_its_stages_are_the_levels_of_the_pyramid():
    shapes = Tapped(build("fcos/timm/resnet18", 3, 3, {"width": 16}), torch.randn(2, 3, 128, 128)).shapes
    assert [(s.channels, s.height) for s in shapes.stages] == [(16, 16), (16, 8), (16, 4), (16, 2), (16, 1)]
    assert shapes.pooled is None and shapes.classes == 3 and shapes.places == 256 + 64 + 16 + 4 + 1


def test_what_cannot_be_made_is_told():
    with pytest.raises(UsageError, match="coarse enough"):
        build("fcos/resnet8", 3, 3)
    with pytest.raises(UsageError, match="did you mean"):
        build("fcos/small-resnet10", 3, 3)
    with pytest.raises(UsageError, match="fewer levels"):
        build("fcos/small-resnet10x1", 3, 3, {"levels": 2})
    with pytest.raises(UsageError, match="options.width"):
        build("fcos/small-resnet10x1", 3, 3, {"width": 0})
    with pytest.raises(UsageError, match="width=64, levels=5"):
        build("fcos/small-resnet10x1", 3, 3, {"wide": 3})


def test_places_are_the_middles_of_their_cells():
    places = grid(64)
    assert len(places) == 64 + 16 + 4
    assert places[0].tolist() == [4, 4, 8, 0, 64] and places[1, :2].tolist() == [12, 4]
    assert places[64].tolist() == [8, 8, 16, 64, 128]
    assert places[-1].tolist() == [48, 48, 32, 128, float("inf")]


def test_an_object_is_assigned_by_hand():
    # of stride 8, places less than 12 px from the centre (20, 20) on both axes: 12, 20 and 28 along each
    index, positive, ignored = assigned(grid(64), objects([4, 4, 36, 36, 2, 1]))
    found = grid(64)[positive[0]]
    assert sorted(map(tuple, found[:, :2].tolist())) == [(x, y) for x in (12, 20, 28) for y in (12, 20, 28)]
    assert not ignored.any() and not index[positive].any()


def test_the_smallest_object_wins_and_a_crowd_is_left_out():
    y = objects([0, 0, 64, 64, 0, 1], [16, 16, 40, 40, 1, 1], [40, 40, 64, 64, 2, 2])
    index, positive, ignored = assigned(grid(64), y)
    inside = distances(grid(64), y[0, 1, :4]).amin(-1) > 0
    assert (index[0][positive[0] & inside & (grid(64)[:, 2] == 8)] == 1).all()
    in_crowd = distances(grid(64), y[0, 2, :4]).amin(-1) > 0
    assert torch.equal(ignored[0], in_crowd & ~positive[0]) and ignored.any()


def test_an_object_between_all_places_is_not_lost():
    index, positive, _ = assigned(grid(64), objects([7, 7, 9, 9, 1, 1]))
    assert positive.sum() == 1 and grid(64)[positive[0], 2] == 8


def test_places_are_assigned_as_torchvision_does():
    generator = torch.Generator().manual_seed(0)
    places, counts = grid(128), [256, 64, 16]
    anchors = torch.cat([places[:, :2] - places[:, 2:3] / 2, places[:, :2] + places[:, 2:3] / 2], 1)
    for _ in range(20):
        corner = 96 * torch.rand(6, 2, generator=generator)
        boxes = torch.cat([corner, corner + 16 + 60 * torch.rand(6, 2, generator=generator)], 1).clamp(max=128)
        y = torch.cat([boxes, torch.arange(6.0)[:, None], torch.ones(6, 1)], 1)[None]
        theirs = {}
        head = SimpleNamespace(compute_loss=lambda *given, theirs=theirs: theirs.update(matched=given[3]))
        self = SimpleNamespace(center_sampling_radius=1.5, head=head)
        TorchvisionFCOS.compute_loss(self, [{"boxes": boxes}], {}, [anchors], counts)
        index, positive, _ = assigned(places, y)
        matched = theirs["matched"][0]
        reached = torch.unique(matched[matched >= 0])
        ours = torch.where(positive[0], index[0], -1)
        lost = ~torch.isin(ours, torch.cat([reached, torch.tensor([-1])]))  # objects that torchvision gives no place
        assert torch.equal(torch.where(lost, -1, ours), matched)


def test_centerness_by_hand():
    found = centerness(torch.tensor([[4.0, 4.0, 4.0, 4.0], [1.0, 2.0, 4.0, 8.0], [-1.0, 2.0, 4.0, 8.0]]))
    assert found.tolist() == pytest.approx([1.0, (1 / 4 * 2 / 8) ** 0.5, 0.0])


def random_answer(images=2, classes=3, seed=0):
    generator, places = torch.Generator().manual_seed(seed), grid(64)
    shape = (images, len(places))
    logits = torch.randn(*shape, classes, generator=generator)
    away = 1 + 20 * torch.rand(*shape, 4, generator=generator)
    return FCOSAnswer(logits, away, torch.randn(*shape, generator=generator), places, (64, 64))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_loss_is_the_papers():
    """In numpy, place by place."""
    y = torch.cat([objects([4, 4, 36, 36, 2, 1], [30, 8, 60, 50, 0, 1]), objects([40, 40, 60, 60, 1, 2], padding=2)])
    answer = random_answer()
    index, positive, ignored = (t.numpy() for t in assigned(answer.places, y))
    logits, centre, boxes = answer.logits.double().numpy(), answer.centerness.double().numpy(), answer.boxes().numpy()
    focal = overlap = bce = weight = 0.0
    for n, p in np.ndindex(positive.shape):
        target = y[n, index[n, p]].numpy()
        for k in range(3):
            there, share = positive[n, p] and target[4] == k, sigmoid(logits[n, p, k])
            right, alpha = (share, 0.25) if there else (1 - share, 0.75)
            focal -= 0 if ignored[n, p] else alpha * (1 - right) ** 2 * np.log(right)
        if positive[n, p]:
            x, z = answer.places[p, :2].tolist()
            left, top, right_, low = x - target[0], z - target[1], target[2] - x, target[3] - z
            wanted = (max(min(left, right_), 0) / max(left, right_) * max(min(top, low), 0) / max(top, low)) ** 0.5
            share = sigmoid(centre[n, p])
            bce -= wanted * np.log(share) + (1 - wanted) * np.log(1 - share)
            a, c = boxes[n, p], target[:4]
            both = max(min(a[2], c[2]) - max(a[0], c[0]), 0) * max(min(a[3], c[3]) - max(a[1], c[1]), 0)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (c[2] - c[0]) * (c[3] - c[1]) - both
            hull = (max(a[2], c[2]) - min(a[0], c[0])) * (max(a[3], c[3]) - min(a[1], c[1]))
            overlap += wanted * (1 - (both / union - (hull - union) / hull))
            weight += wanted
    expected = (focal + bce) / positive.sum() + overlap / weight
    assert float(answer.loss(y)) == pytest.approx(expected, rel=1e-4)


def test_a_batch_twice_over_has_the_same_loss_and_padding_none():
    y, answer = objects([4, 4, 36, 36, 2, 1]).repeat(2, 1, 1), random_answer()
    twice = FCOSAnswer(*(t.repeat(2, *[1] * (t.ndim - 1)) for t in answer[:3]), *answer[3:])
    assert float(twice.loss(y.repeat(2, 1, 1))) == pytest.approx(float(answer.loss(y)), rel=1e-5)
    padded = torch.cat([y, torch.zeros(2, 5, 6)], 1)
    assert float(answer.loss(padded)) == float(answer.loss(y))


def truth_for(head, y, side):
    """With masks, for a head that learns some."""
    return torch.cat([y, torch.ones(*y.shape[:2], (side // 4) ** 2)], 2) if head in ("yolact", "maskrcnn") else y


@pytest.mark.parametrize("head", list(heads))
@pytest.mark.parametrize("y", [torch.zeros(2, 1, 6), objects([5, 5, 6, 6, 0, 1], padding=0).repeat(2, 500, 1)])
def test_no_object_tiny_ones_and_many_train(y, head):
    net = build(f"{head}/small-resnet10x1", 3, 3, OPTIONS.get(head, THIN))
    loss = net(torch.randn(2, 3, 64, 64)).loss(truth_for(head, y, 64))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_a_perfect_answer_costs_nearly_nothing():
    y, places = objects([4, 4, 36, 36, 2, 1]), grid(64)
    index, positive, _ = assigned(places, y)
    away = distances(places, y[:, 0, None, :4].expand(1, len(places), 4)).clamp(min=0.1)
    logits = torch.full((1, len(places), 3), -12.0)
    logits[0, :, 2][positive[0]] = 12.0
    centre = torch.logit(centerness(away).clamp(1e-4, 1 - 1e-4))
    good = FCOSAnswer(logits, away, centre, places, (64, 64))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(centre, centerness(away), reduction="none")
    floor = entropy[positive].mean()  # of targets between 0 and 1
    assert float(good.loss(y)) == pytest.approx(float(floor), abs=0.01)
    assert float(good.loss(objects([4, 4, 36, 36, 1, 1]))) > 5  # another label


@pytest.mark.parametrize("head", list(heads))
def test_every_parameter_learns(head):
    net = build(f"{head}/timm/resnet18", 3, 3, {**OPTIONS.get(head, THIN), "levels": 4})
    y = truth_for(head, objects([4, 4, 36, 36, 2, 1]).repeat(2, 1, 1), 128)
    net(torch.randn(2, 3, 128, 128)).loss(y).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None]
    assert not silent


# RetinaNet


def anchors(side=64):
    net = build("retinanet/small-resnet10x1", 3, 3, THIN)
    return net.anchors([torch.zeros(1, 1, side // stride, side // stride) for stride in (8, 16, 32)])


def test_anchors_are_torchvisions():
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    sizes = tuple(tuple(4 * stride * 2 ** (k / 3) for k in range(3)) for stride in (8, 16, 32))
    theirs = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
    maps = [torch.zeros(1, 1, 64 // stride, 64 // stride) for stride in (8, 16, 32)]
    found = theirs(ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]), maps)[0]
    offset = torch.repeat_interleave(torch.tensor([4.0, 8.0, 16.0]), torch.tensor([9 * 64, 9 * 16, 9 * 4]))
    assert torch.allclose(anchors(), found + offset[:, None], atol=0.51)  # theirs are rounded, around the corners


def test_boxes_are_coded_and_decoded_as_torchvision_does():
    from torchvision.models.detection._utils import BoxCoder

    coder, places = BoxCoder((1.0, 1.0, 1.0, 1.0)), anchors()
    corner = 40 * torch.rand(len(places), 2)
    boxes = torch.cat([corner, corner + 1 + 20 * torch.rand(len(places), 2)], 1)
    codes = head_retinanet.coded(places, boxes[None])
    assert torch.allclose(codes[0], coder.encode_single(boxes, places), atol=1e-5)
    answer = head_retinanet.RetinaNetAnswer(torch.zeros(1, len(places), 3), codes, places, (64, 64))
    assert torch.allclose(answer.boxes()[0], boxes, atol=1e-3)
    assert torch.allclose(answer.boxes()[0], coder.decode_single(codes[0], places), atol=1e-3)


def test_anchors_are_assigned_as_torchvision_does():
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    matcher, places = Matcher(0.5, 0.4, allow_low_quality_matches=True), anchors(128)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        corner = 96 * torch.rand(5, 2, generator=generator)
        boxes = torch.cat([corner, corner + 6 + 60 * torch.rand(5, 2, generator=generator)], 1)
        theirs = matcher(box_iou(boxes, places))
        y = torch.cat([boxes, torch.zeros(5, 1), torch.ones(5, 1)], 1)[None]
        index, positive, ignored = head_retinanet.assigned(places, y)
        assert torch.equal(positive[0], theirs >= 0)
        assert torch.equal(ignored[0], theirs == Matcher.BETWEEN_THRESHOLDS)
        assert torch.equal(index[0][positive[0]], theirs[positive[0]])


def test_the_loss_of_anchors_is_torchvisions():
    from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

    torch.manual_seed(0)
    y, places = objects([4, 4, 36, 36, 2, 1], [30, 8, 60, 50, 0, 1]).repeat(2, 1, 1), anchors()
    answer = head_retinanet.RetinaNetAnswer(
        torch.randn(2, len(places), 3), torch.randn(2, len(places), 4), places, (64, 64)
    )
    index, positive, ignored = head_retinanet.assigned(places, y)
    matched = list(torch.where(positive, index, torch.where(ignored, -2, -1)))
    targets = [{"boxes": row[:2, :4], "labels": row[:2, 4].long()} for row in y]
    given = {"cls_logits": answer.logits, "bbox_regression": answer.codes}
    whole = 0.0  # theirs is divided by each image's own anchors with an object, and averaged
    for head, rest in (
        (RetinaNetClassificationHead(8, 9, 3), ()),
        (RetinaNetRegressionHead(8, 9), ([places] * 2,)),
    ):
        whole += float(head.compute_loss(targets, given, *rest, matched))
    assert float(answer.loss(y)) == pytest.approx(whole, rel=1e-4)  # both images have as many
