"""Detectors that look twice, against torchvision itself: regions, detections, losses, and what methods compare."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import MultiScaleRoIAlign, nms

from kdcompress.boxes import Detections, suppressed
from kdcompress.errors import UsageError
from kdcompress.matching import f1, matched
from kdcompress.models.answers import Chosen, Dense, answer_of, class_logits, shipped
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.detectors import torchvision_dense
from kdcompress.models.detectors.regions import pooled, unsuppressed
from kdcompress.models.detectors.torchvision_two_stage import TorchvisionTwoStage
from kdcompress.models.names import names
from kdcompress.models.taps import Tapped
from kdcompress.pipelines.preflight import settle
from kdcompress.training.distillation import Distillation

LABELS, SIDE = 4, 128
MOBILE = "fasterrcnn_mobilenet_v3_large_320_fpn"
THIN = {"width": 16, "levels": 4, "hidden": 32, "proposals": 48, "samples": 32}


def boxes_in(image, count, spread):
    generator = torch.Generator().manual_seed(image)
    corner = SIDE * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + 4 + spread * torch.rand(count, 2, generator=generator)], 1).clamp(max=SIDE)


def objects(*rows):
    made = torch.zeros(1, 3, 6)
    for place, row in zip(made[0], rows):
        place[:] = torch.tensor(row)
    return made


@pytest.mark.parametrize("spread", [20, 80])
def test_suppression_is_torchvisions(spread):
    boxes = torch.stack([boxes_in(image, 400, spread) for image in range(3)])
    there = torch.rand(3, 400, generator=torch.Generator().manual_seed(0)) < 0.9
    found = unsuppressed(boxes, there, 0.5)
    for mine, each, real in zip(found, boxes, there, strict=True):
        wanted = real.nonzero()[:, 0][nms(each[real], torch.arange(int(real.sum()), 0, -1.0), 0.5)]
        assert mine.nonzero()[:, 0].tolist() == sorted(wanted.tolist()) and 20 < len(wanted) < real.sum()


@pytest.mark.parametrize("height", [SIDE, 96])
def test_regions_hold_what_torchvisions_hold(height):
    maps = {str(i): torch.randn(2, 5, height // stride, SIDE // stride) for i, stride in enumerate((4, 8, 16, 32))}
    boxes = torch.stack([boxes_in(image, 60, 220) for image in range(2)])
    boxes[..., 1::2].clamp_(max=height)
    boxes = torch.cat([boxes, torch.tensor([[[0.0, 0, SIDE, height], [SIDE - 9, height - 9, SIDE, height]]] * 2)], 1)
    wanted = MultiScaleRoIAlign(list(maps), 7, 2)(maps, list(boxes), [(height, SIDE)] * 2)
    inside = (boxes[..., 2:] - boxes[..., :2]).amin(2).flatten() >= 4  # smaller ones reach over the map's border
    torch.testing.assert_close(pooled(list(maps.values()), boxes, (height, SIDE), 7, 2)[inside], wanted[inside])
    assert inside.sum() > 80


@pytest.fixture(scope="module")
def pair():
    """(ours, torchvision's) of the same weights, where torchvision neither normalises nor resizes."""
    torch.manual_seed(1)
    options = {"min_size": SIDE, "max_size": SIDE, "rpn_score_thresh": 0.55, "rpn_post_nms_top_n_test": 200}
    ours = build(f"torchvision/{MOBILE}", LABELS, 3, {**options, "box_batch_size_per_image": 16})
    settle(ours, torch.randn(4, 3, SIDE, SIDE))
    rpn, box = ours.rpn.head, ours.roi_heads.box_predictor
    for layer, std in ((rpn.cls_logits, 0.3), (rpn.bbox_pred, 0.02), (box.cls_score, 0.4), (box.bbox_pred, 0.3)):
        nn.init.normal_(layer.weight, std=std)
    detector = torchvision.models.get_model(
        MOBILE, weights=None, weights_backbone=None, num_classes=LABELS + 1, **options
    )
    detector.backbone, detector.rpn, detector.roi_heads = ours.backbone, ours.rpn, ours.roi_heads
    detector.transform.torch_choice = lambda sides: sides[0]  # without a draw
    detector.transform.image_mean, detector.transform.image_std = [0.0] * 3, [1.0] * 3
    return ours.eval(), detector.eval()


def test_it_finds_what_torchvision_finds(pair):
    ours, detector = pair
    x = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    detector.roi_heads.score_thresh, detector.roi_heads.detections_per_img = 0.3, 10**6
    with torch.no_grad():
        answer, theirs = answer_of(ours(x)), detector(list(x))
    assert isinstance(answer, Dense) and isinstance(answer, Chosen) and answer.logits.shape == (3, 200, LABELS)
    boxes, scores = (each.numpy() for each in shipped(answer))
    assert boxes.shape == (3, 400, 4) and scores.shape == (3, 400, LABELS)
    assert 0 < answer.proposals.sum() < 600  # some images have fewer than are looked at
    pairs, count = [], 0
    for each, box, score in zip(theirs, boxes, scores, strict=True):
        mine = suppressed(box, score, score=0.3, iou=detector.roi_heads.nms_thresh, before=10**6, most=10**6)
        found = Detections(each["boxes"].numpy(), each["labels"].numpy() - 1, each["scores"].numpy())
        pairs.append(matched(mine, found, overlap=0.99, score=0.3, most=10**6))
        assert len(mine) == len(found)
        count += len(mine)
    assert f1(pairs) == 1 and count > 20


def test_the_loss_is_torchvisions(pair):
    ours, detector = pair
    y = torch.cat([
        objects([8, 8, 64, 64, 1, 1], [32, 10, 124, 119, 3, 1]),
        objects([3, 3, 64, 120, 2, 1], [9, 9, 30, 30, 0, 2]),  # the second is a crowd
        objects(),
    ])  # fmt: skip
    x = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    real = [each[each[:, 5] == 1] for each in y]
    targets = [{"boxes": each[:, :4], "labels": each[:, 4].long() + 1} for each in real]
    detector.train(), ours.train()
    for norm in detector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    answer = answer_of(ours(x))
    torch.manual_seed(5)
    loss = answer.loss(y)
    torch.manual_seed(5)
    theirs = detector(list(x), targets)
    ours.eval(), detector.eval()
    assert loss.item() == pytest.approx(sum(theirs.values()).item(), rel=1e-4)
    loss.backward()
    gradients = [each.grad for each in ours.parameters()]
    assert all(each is not None and each.isfinite().all() for each in gradients)
    ours.zero_grad()


@pytest.mark.parametrize("backbone", ["small-resnet10x1", "timm/mobilenetv3_small_050"])
def test_any_backbone_makes_one(backbone):
    net = build(f"fasterrcnn/{backbone}", 7, 3, {**THIN, "levels": 5}).eval()
    with torch.no_grad():
        boxes, scores = shipped(net(torch.randn(2, 3, 64, 96)))
    assert boxes.shape == (2, 96, 4) and scores.shape == (2, 96, 7)
    assert boxes[..., 0::2].amax() <= 96 and boxes[..., 1::2].amax() <= 64 and boxes.amin() >= 0
    assert ((scores > 0).sum(2) <= 1).all() and (scores.amax(2).diff() <= 0).all()  # of one label, best first
    stages = Tapped(net, torch.randn(2, 3, 64, 96)).shapes.stages
    assert [(s.channels, s.height, s.width) for s in stages] == [
        (16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3), (16, 1, 2)
    ]  # fmt: skip


def test_options_that_do_not_fit_are_told():
    with pytest.raises(UsageError, match="options.proposals"):
        build("fasterrcnn/small-resnet10x1", 3, 3, {"proposals": 0})
    with pytest.raises(UsageError, match="fewer levels"):
        build("fasterrcnn/timm/resnet10t", 3, 3, {"levels": 3})


def test_few_scenes_are_learnt_those_without_objects_too():
    torch.manual_seed(0)
    net = build("fasterrcnn/small-resnet10x1", 1, 3, THIN).train()
    y = torch.cat([objects([8, 8, 40, 40, 0, 1]), objects([20, 24, 60, 52, 0, 1]), objects()])
    x = torch.randn(3, 3, 64, 64) * 0.1
    for image, rows in zip(x, y, strict=True):
        for x1, y1, x2, y2, _, kind in rows.int().tolist():
            image[:, y1:y2, x1:x2] += 2.0 * kind
    optimizer, losses = torch.optim.AdamW(net.parameters(), 0.005), []
    for _ in range(30):
        loss = net(x).loss(y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    net.eval()
    with torch.no_grad():
        boxes, scores = (each.numpy() for each in shipped(net(x)))
    best = [suppressed(*each, most=1) for each in zip(boxes, scores, strict=True)]
    for found, rows in zip(best[:2], y):
        assert len(found) and np.abs(found.boxes[0] - rows[0, :4].numpy()).max() < 8
    assert scores[2].max() < min(found.scores[0] for found in best[:2])


def test_torchvisions_are_listed():
    listed = names()["torchvision"]
    assert f"torchvision/{MOBILE}" in listed and "torchvision/fasterrcnn_resnet50_fpn_v2" in listed
    facts = pretrained_facts("torchvision/fasterrcnn_resnet50_fpn")
    assert facts.classes == 80 and facts.mean == (0.485, 0.456, 0.406) and "fasterrcnn_resnet50_fpn" in facts.origin


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_torchvisions_stages_are_the_pyramids_levels(name):
    with torch.device("meta"):
        net = build(f"torchvision/{name}", LABELS, 3)
    assert isinstance(net, TorchvisionTwoStage)
    modules = dict(net.named_modules())
    assert len(net.stage_paths) == 5 and all(path in modules for path in net.stage_paths)


def test_the_weights_labels_are_kept_or_new(monkeypatch):
    """With random numbers in place of the download."""
    get_model, made = torchvision.models.get_model, []

    def offline(name, weights, **options):
        assert weights.meta["categories"][0] == "__background__" and not options
        made.append(get_model(name, weights=None, weights_backbone=None, num_classes=91))
        return made[-1]

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    categories = torchvision.models.get_model_weights(MOBILE).DEFAULT.meta["categories"]
    rows = [0, *(i for i, name in enumerate(categories) if name not in ("N/A", "__background__"))]
    wanted = {}
    monkeypatch.setattr(
        torchvision_dense.torchvision_two_stage, "TorchvisionTwoStage", lambda detector: wanted.update(net=detector)
    )
    swap = torchvision_dense.torchvision_two_stage.swap_labels

    def swapped(detector, *given):
        wanted["before"] = detector.roi_heads.box_predictor.bbox_pred.weight.detach().clone()
        swap(detector, *given)

    monkeypatch.setattr(torchvision_dense.torchvision_two_stage, "swap_labels", swapped)
    torchvision_dense.dense(MOBILE, 80, {}, pretrained=True)
    after = wanted["net"].roi_heads.box_predictor
    assert after.cls_score.weight.shape[0] == 81
    assert torch.equal(after.bbox_pred.weight.unflatten(0, (81, 4)), wanted["before"].unflatten(0, (91, 4))[rows])
    torchvision_dense.dense(MOBILE, 3, {}, pretrained=True)
    assert wanted["net"].roi_heads.box_predictor.bbox_pred.weight.shape[0] == 16


X, Y = (
    torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    objects([8, 8, 40, 40, 0, 1]).expand(2, -1, -1),
)


def test_methods_on_logits_compare_the_regions_that_the_student_chose():
    torch.manual_seed(0)
    student = build("fasterrcnn/small-resnet10x1", 2, 3, THIN)
    teacher = build("fasterrcnn/small-resnet10x1", 2, 3, {**THIN, "width": 24, "proposals": 20})
    with torch.no_grad():
        answers = student.eval()(X), teacher.eval()(X)
        there = answers[1].at(answers[0])
    assert class_logits(answers[1]).shape == (2, 20, 2) and class_logits(there).shape == (2, 48, 2)
    assert torch.equal(there.regions, answers[0].regions)
    same = answers[1].at(answers[1])
    torch.testing.assert_close(class_logits(same), class_logits(answers[1]))
    distillation = Distillation(student, teacher, "kd", X, task="detection").train()
    terms = distillation(X, Y)
    assert terms["kd"].requires_grad and terms["kd"] > 0
    sum(terms.values()).backward()
    assert all(each.grad is None for each in teacher.parameters())
    twin = Distillation(student, build("fasterrcnn/small-resnet10x1", 2, 3, THIN), "kd", X, task="detection")
    twin.teachers[0].net.load_state_dict(student.state_dict())
    with torch.no_grad():
        assert twin.eval()(X, Y)["kd"].item() == pytest.approx(0, abs=1e-6)


def test_places_that_cannot_be_compared_are_told_before_the_training():
    student = build("fasterrcnn/small-resnet10x1", 2, 3, THIN)
    others = [
        build(f"{head}/small-resnet10x1", 2, 3, {"width": 16, "levels": 4, "finest": 4})
        for head in ("fcos", "retinanet")
    ]
    with pytest.raises(UsageError, match="different places") as caught:
        Distillation(student, others[0], "kd", X, task="detection")
    assert "48 places of its own choice" in str(caught.value) and "reviewkd" in str(caught.value)
    with pytest.raises(UsageError, match="different places"):
        Distillation(others[1], others[0], "kd", X, task="detection")
    terms = Distillation(student, others[0], {"reviewkd": {"warmup": 0}}, X, task="detection").train()(X, Y)
    assert len(terms) == 2 and all(term.requires_grad for term in terms.values())
