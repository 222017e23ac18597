"""Mask R-CNN against torchvision's own: what is found with its masks, losses, weights by name, and what it teaches."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import batched_nms

from kdcompress.errors import UsageError
from kdcompress.matching import f1, matched
from kdcompress.models.answers import Chosen, answer_of, described, shipped
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.detectors.masked import OVERLAP, MaskedAnswer
from kdcompress.models.detectors.regions import unsuppressed
from kdcompress.models.detectors.torchvision_two_stage import swap_labels
from kdcompress.models.names import names
from kdcompress.models.taps import Tapped
from kdcompress.pipelines.preflight import settle
from kdcompress.segments import SHARE, Segments, pasted, segmented
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation

LABELS, SIDE, CELLS = 4, 128, 128 // SHARE
THIN = {"width": 16, "levels": 4, "hidden": 32, "proposals": 48, "samples": 32, "depth": 1, "found": 40}
TASK = tasks["instance-segmentation"]


class Levels(nn.Module):
    """A pyramid as torchvision's detectors have one."""

    def __init__(self, net):
        super().__init__()
        self.net, self.out_channels = [net], 16

    def forward(self, x):
        return self.net[0].levels(x)


@pytest.fixture(scope="module")
def pair():
    """(ours, torchvision's) of the same layers, where torchvision neither normalises nor resizes."""
    torch.manual_seed(2)
    ours = build("maskrcnn/small-resnet10x1", LABELS, 3, THIN)
    settle(ours, torch.randn(4, 3, SIDE, SIDE))
    heads = ours.roi_heads
    layers = (ours.rpn.head.cls_logits, 2), (ours.rpn.head.bbox_pred, 0.2), (heads.box_predictor.cls_score, 2)
    layers += (heads.box_predictor.bbox_pred, 0.5), (heads.mask_predictor.mask_fcn_logits, 3)
    with torch.no_grad():
        for layer, spread in layers:
            seen = []
            nn.init.normal_(layer.weight), nn.init.zeros_(layer.bias)
            hook = layer.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.flatten()))
            shipped(ours.eval()(torch.rand(2, 3, SIDE, SIDE)))
            hook.remove()
            layer.weight.mul_(spread / torch.cat(seen).std())
    # in training, resizing would make whole numbers of masks
    theirs = MaskRCNN(Levels(ours), LABELS + 1, min_size=SIDE, max_size=SIDE, _skip_resize=True)
    theirs.rpn, theirs.roi_heads, heads.nms_thresh = ours.rpn, heads, OVERLAP
    theirs.transform.image_mean, theirs.transform.image_std = [0.0] * 3, [1.0] * 3
    return ours.eval(), theirs.eval()


def test_it_finds_what_torchvision_finds_with_the_same_masks(pair):
    ours, detector = pair
    x = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        answer, theirs = answer_of(ours(x)), detector(list(x))
    assert not any(each.requires_grad for each in shipped(answer))
    assert isinstance(answer, MaskedAnswer) and isinstance(answer, Chosen)
    assert [(out.name, out.shape, out.chosen) for out in described(answer, TASK, "abcd")] == [
        ("boxes", (40, 4), True),
        ("scores", (40, 4), True),
        ("masks", (40, 28, 28), True),
    ]
    outputs = [each.numpy() for each in shipped(answer)]
    assert ((outputs[1] > 0).sum(2) <= 1).all() and outputs[2].std() > 0.2
    pairs, count = [], 0
    for each, *one in zip(theirs, *outputs, strict=True):
        mine = segmented(*one, size=(SIDE, SIDE), score=0.1)
        there = each["scores"] > 0.1
        boxes, labels, scores = (each[name][there].numpy() for name in ("boxes", "labels", "scores"))
        found = Segments(boxes, labels - 1, scores, each["masks"][there, 0].numpy() > 0.5)
        pairs.append(matched(mine, found, overlap=0.98, score=0.1, most=100))
        count += len(mine)
    assert f1(pairs) == 1 and count > 20


def test_masks_are_pasted_as_torchvision_does():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-5, 95, (200, 2))
    boxes = np.concatenate([corners, corners + rng.gamma(1.5, 20, (200, 2))], 1).clip(0, [100, 75] * 2)
    boxes = np.concatenate([boxes, [[0, 0, 100, 75], [99.5, 74.5, 100, 75], [20, 20, 20, 20]]]).astype(np.float32)
    shares = torch.nn.functional.avg_pool2d(torch.rand(203, 28, 28), 5, 1, 2)
    theirs = paste_masks_in_image(shares[:, None], torch.from_numpy(boxes), (75, 100))[:, 0].numpy()
    mine = pasted(boxes, shares.numpy(), (75, 100))
    assert (mine == (theirs > 0.5))[np.abs(theirs - 0.5) > 1e-5].all() and mine.any((1, 2)).mean() > 0.5
    far = np.array([[1e20, 0, 2e20, 9], [-1e9, -1e9, 1e9, 1e9]], np.float32)  # no memory is taken by these
    assert pasted(far, np.ones((2, 28, 28), np.float32), (75, 100)).mean((1, 2)).tolist() == [0, 1]


def test_what_is_found_is_suppressed_label_by_label():
    generator = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(2, 200, 2, generator=generator)
    boxes = torch.cat([corner, corner + 10 + 40 * torch.rand(2, 200, 2, generator=generator)], 2)
    labels = torch.randint(0, 3, (2, 200), generator=generator)
    found = unsuppressed(boxes, torch.ones(2, 200, dtype=torch.bool), 0.5, labels)
    for mine, box, label in zip(found, boxes, labels, strict=True):
        wanted = batched_nms(box, torch.arange(200, 0, -1.0), label, 0.5)
        assert mine.nonzero()[:, 0].tolist() == sorted(wanted.tolist()) and 50 < len(wanted) < 200


# Training


def truth(masks):
    """Two objects in the first image, one and a crowd in the second, none in the third, with ``masks(x, y)`` in pixels,
    in cells and pixel by pixel, for us and for torchvision."""
    y = torch.zeros(3, 2, 6 + CELLS**2)
    rows = (0, 0, [24, 24, 72, 72, 1, 1]), (0, 1, [40, 30, 96, 92, 3, 1]), (1, 0, [30, 26, 80, 98, 2, 1])
    for image, place, row in (*rows, (1, 1, [30, 40, 60, 60, 0, 2])):
        y[image, place, :6] = torch.tensor(row)
    middle = SHARE * (torch.arange(CELLS) + 0.5)
    y[..., 6:] = masks(middle[None], middle[:, None]).flatten() * (y[..., 5:6] > 0)
    pixel = torch.arange(float(SIDE))  # torchvision takes a pixel's value to be at its corner
    every = masks(pixel[None], pixel[:, None])
    real = [each[each[:, 5] == 1] for each in y]
    return y, [{"boxes": e[:, :4], "labels": e[:, 4].long() + 1, "masks": every.expand(len(e), -1, -1)} for e in real]


def test_the_loss_is_torchvisions(pair):
    """Of masks whose shares rise along the image, which cells of any size hold exactly."""
    ours, detector = pair
    y, targets = truth(lambda x, y: (0.6 * x + 0.4 * y) / SIDE)
    x = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    detector.train(), ours.train()
    for norm in ours.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    answer = answer_of(ours(x))
    torch.manual_seed(5)
    loss = answer.loss(y)
    torch.manual_seed(5)
    theirs = detector(list(x), targets)
    ours.eval(), detector.eval()
    assert theirs["loss_mask"] > 0.1
    assert loss.item() == pytest.approx(sum(theirs.values()).item(), rel=1e-4)
    loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in ours.parameters())
    assert ours.roi_heads.mask_predictor.mask_fcn_logits.weight.grad[[2, 3, 4]].abs().sum((1, 2, 3)).min() > 0
    ours.zero_grad()


def test_the_loss_of_masks_is_the_formula(pair):
    """By hand, of one region with a mask that ends in its middle: the object's class alone, in the cells of its box."""
    ours, _ = pair
    y, _ = truth(lambda x, y: ((x < 48) & (y > 0)).float())
    answer = answer_of(ours(torch.rand(3, 3, SIDE, SIDE)))
    region, none = torch.tensor([[24.0, 24, 72, 72], [0, 0, 20, 20]]), torch.zeros(0, 4)
    classes = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)]
    objects = [torch.zeros(len(each), dtype=torch.int64) for each in classes]
    (loss,) = answer.further(answer.maps, answer.targets(y), [region, none, none], objects, classes)
    heads = ours.roi_heads
    seen = heads.mask_roi_pool(answer.maps, [region[:1], none, none], [(SIDE, SIDE)] * 3)
    share = heads.mask_predictor(heads.mask_head(seen))[0, 2].sigmoid().double().detach().numpy()
    middles = 24 + 48 / 28 * (np.arange(28) + 0.5)
    wanted = np.interp(middles, [46, 50], [1, 0])[None]  # between the middles of the cells that it ends between
    by_hand = -(wanted * np.log(share) + (1 - wanted) * np.log(1 - share)).mean()
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_a_batch_without_objects_has_a_loss(pair):
    ours, _ = pair
    loss = ours.train()(torch.rand(2, 3, SIDE, SIDE)).loss(torch.zeros(2, 1, 6 + CELLS**2))
    loss.backward()
    ours.eval()
    assert loss.isfinite() and all(each.grad is not None and each.grad.isfinite().all() for each in ours.parameters())
    ours.zero_grad()


def test_truths_without_masks_are_told(pair):
    with pytest.raises(UsageError, match="boxes alone"):
        pair[0](torch.rand(1, 3, SIDE, SIDE)).loss(torch.zeros(1, 1, 6))


def test_it_learns_the_masks_of_a_few_images():
    torch.manual_seed(0)
    net = build("maskrcnn/small-resnet10x1", 2, 3, {**THIN, "found": 10}).train()
    x, y = 0.1 * torch.randn(3, 3, 64, 64), torch.zeros(3, 1, 6 + 256)
    at = torch.arange(64) + 0.5
    for image, (x1, y1, x2, y2) in enumerate([(8, 8, 40, 44), (20, 16, 60, 56)]):  # the third has nothing
        across, down = (2 * at - x1 - x2) / (x2 - x1), (2 * at - y1 - y2) / (y2 - y1)
        mask = (across**2 + down[:, None] ** 2 < 1).float()
        x[image] += 2 * mask
        y[image, 0, :6] = torch.tensor([x1, y1, x2, y2, image, 1.0])
        y[image, 0, 6:] = torch.nn.functional.avg_pool2d(mask[None], SHARE).flatten()
    optimizer = torch.optim.AdamW(net.parameters(), 0.005)
    for _ in range(40):
        optimizer.zero_grad()
        net(x).loss(y).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        outputs = [each.numpy() for each in shipped(net(x))]
    found = [segmented(*each, size=(64, 64), most=1) for each in zip(*outputs, strict=True)]
    for each, image, label in zip(found[:2], x, (0, 1)):
        wanted = image.mean(0).numpy() > 1
        assert each.labels.tolist() == [label]
        assert (each.masks[0] & wanted).sum() / (each.masks[0] | wanted).sum() > 0.8
    assert outputs[1][2].max() < min(each.scores[0] for each in found[:2])


# By name


def test_torchvisions_are_listed_with_their_weights():
    listed = names()["torchvision"]
    assert {"torchvision/maskrcnn_resnet50_fpn", "torchvision/maskrcnn_resnet50_fpn_v2"} <= set(listed)
    facts = pretrained_facts("torchvision/maskrcnn_resnet50_fpn_v2")
    assert facts.classes == 80 and "maskrcnn_resnet50_fpn_v2" in facts.origin


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_torchvisions_give_masks(name):
    options = {"box_detections_per_img": 6, "rpn_post_nms_top_n_test": 8}
    net = build(f"torchvision/{name}", LABELS, 3, options).eval()
    with torch.no_grad():
        answer = net(torch.randn(1, 3, 64, 64))
    assert [tuple(each.shape) for each in shipped(answer)] == [(1, 6, 4), (1, 6, LABELS), (1, 6, 28, 28)]
    modules = dict(net.named_modules())
    assert len(net.stage_paths) == 5 and all(path in modules for path in net.stage_paths)


@pytest.mark.parametrize("kept", [[0, 2, 3], None])
def test_the_weights_labels_are_kept_or_new(kept):
    detector = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    before = detector.roi_heads.mask_predictor.mask_fcn_logits
    swap_labels(detector, 5, 3, kept)
    after = detector.roi_heads.mask_predictor.mask_fcn_logits
    assert after.weight.shape == (3, 256, 1, 1) and after.bias.shape == (3,)
    assert kept is None or (after.weight == before.weight[kept]).all()


# Taught and teaching

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(2, 1, 6 + 256)
Y[:, 0, :6], Y[:, 0, 6:] = torch.tensor([8.0, 8, 40, 40, 0, 1]), 1.0


def small(head, **options):
    common = {"width": 16, "levels": 4, "finest": 4}
    own = {**THIN, **options} if head == "maskrcnn" else {"depth": 1, "prototypes": 4, **options}
    return build(f"{head}/small-resnet10x1", 2, 3, {**own, **common})


def test_its_stages_are_the_levels_of_the_pyramid():
    stages = Tapped(small("maskrcnn"), X).shapes.stages
    assert [(stage.channels, stage.height) for stage in stages] == [(16, 16), (16, 8), (16, 4), (16, 2)]


@pytest.mark.parametrize("method", ["reviewkd", "fitnets", "cwd"])
def test_it_teaches_a_segmenter_of_prototypes(method):
    torch.manual_seed(0)
    distillation = Distillation(small("yolact"), small("maskrcnn"), method, X, task=TASK.name).train()
    optimizer = torch.optim.SGD(distillation.parameters(), 1e-3)
    for _ in range(2):
        terms = distillation(X, Y, progress=0.5)
        assert len(terms) == 2 and all(term.isfinite() and term.requires_grad for term in terms.values())
        optimizer.zero_grad()
        terms[next(name for name in terms if name != "task")].backward(retain_graph=True)
        gradients = [level[0].weight.grad for level in distillation.student.net.pyramid.out]
        assert any(each is not None and each.abs().sum() > 0 for each in gradients)
        terms["task"].backward()
        optimizer.step()
    assert all(each.grad is None for each in distillation.teachers[0].parameters())


def test_logits_of_other_places_are_refused():
    with pytest.raises(UsageError, match="different places") as caught:
        Distillation(small("yolact"), small("maskrcnn"), "kd", X, task=TASK.name)
    assert "48 places of its own choice" in str(caught.value)


def test_its_own_kind_is_taught_by_what_is_said_of_the_students_regions():
    distillation = Distillation(small("maskrcnn"), small("maskrcnn", proposals=20), "kd", X, task=TASK.name).train()
    terms = distillation(X, Y)
    assert set(terms) == {"task", "kd"} and all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
