"""torchvision's one-stage detectors against torchvision itself: what is found, the losses, and what ships."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kdcompress.boxes import Detections, area, suppressed
from kdcompress.errors import UsageError
from kdcompress.matching import f1, matched
from kdcompress.models.answers import Dense, answer_of, shipped
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.detectors import torchvision_dense
from kdcompress.models.detectors.torchvision_dense import TorchvisionDense
from kdcompress.models.names import names
from kdcompress.models.taps import Tapped
from kdcompress.pipelines.preflight import settle

LABELS = 5
SIDES = {"ssdlite320_mobilenet_v3_large": 320, "fcos": 128, "retinanet": 128}


def pyramid():
    return _resnet_fpn_extractor(
        resnet18(weights=None), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )


def spread(net):
    """Scores and boxes that vary from place to place, with batch norms that a batch has settled."""
    torch.manual_seed(0)
    settle(net, torch.randn(4, 3, 64, 64))
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and any(part in name for part in ("head", "cls_logits", "bbox_")):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.constant_(module.bias, -1.0 if "cls_logits" in name else 0.0)
    return net.eval()


def solid(found):
    """Those that have an area: others overlap nothing, not even themselves."""
    there = area(found.boxes) > 0
    return Detections(found.boxes[there], found.labels[there], found.scores[there])


@pytest.fixture(scope="module", params=["ssdlite320_mobilenet_v3_large", "fcos", "retinanet"])
def pair(request):
    """(ours, torchvision's) of the same weights, where torchvision neither normalises nor resizes, and the side."""
    side = SIDES[request.param]
    torch.manual_seed(1)
    same = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    if request.param == "ssdlite320_mobilenet_v3_large":
        ours = build(f"torchvision/{request.param}", LABELS, 3)
        detector = ours.detector
        detector.transform.image_mean, detector.transform.image_std = same.values()
    else:
        kind = {"fcos": FCOS, "retinanet": RetinaNet}[request.param]
        detector = kind(pyramid(), LABELS, min_size=side, max_size=side, **same)
        ours = TorchvisionDense(detector)
    return spread(ours), detector, side


def objects(side):
    rows = [[8, 8, side / 2, side / 2, 1, 1], [side / 4, 10, side - 4, side - 9, 4, 1], [0, 0, 0, 0, 0, 0]]
    crowd = [[3, 3, side / 2, side - 3, 2, 1], [9, 9, 30, 30, 0, 2], [0, 0, 0, 0, 0, 0]]
    return torch.tensor([rows, crowd, [[0.0] * 6] * 3])


def test_it_finds_what_torchvision_finds(pair):
    ours, detector, side = pair
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    first = 1 if hasattr(detector, "neg_to_pos_ratio") else 0
    detector.score_thresh, detector.topk_candidates, detector.detections_per_img = 0.3, 10**6, 10**6
    with torch.no_grad():
        answer = answer_of(ours(x))
        theirs = detector(list(x))
        boxes, scores = (each.numpy() for each in shipped(answer))
    assert isinstance(answer, Dense) and answer.logits.shape == scores.shape == (2, sum(answer.counts), LABELS)
    assert scores.std() > 0.01
    pairs, count = [], 0
    for each, box, score in zip(theirs, boxes, scores, strict=True):
        mine = suppressed(box, score, score=0.3, iou=detector.nms_thresh, before=10**6, most=10**6)
        found = Detections(each["boxes"].numpy(), each["labels"].numpy() - first, each["scores"].numpy())
        assert len(mine) == len(found)
        pairs.append(matched(solid(mine), solid(found), overlap=0.99, score=0.3, most=10**6))
        count += len(solid(mine))
    assert f1(pairs) > 0.99 and count > 20  # slivers at the border overlap their own twins by less


def test_the_loss_is_torchvisions(pair):
    ours, detector, side = pair
    y = objects(side)
    x = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(4))
    first = 1 if hasattr(detector, "neg_to_pos_ratio") else 0
    real = [each[each[:, 5] == 1] for each in y]
    targets = [{"boxes": each[:, :4], "labels": each[:, 4].long() + first} for each in real]
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    detector.train()
    for norm in norms:
        norm.eval()
    loss = answer_of(ours(x)).loss(y)
    theirs = detector(list(x), targets)
    detector.eval()
    assert loss.item() == pytest.approx(sum(theirs.values()).item(), rel=1e-5)
    loss.backward()
    assert all(each.grad.isfinite().all() for each in ours.parameters() if each.grad is not None)


def test_a_share_and_a_logit_agree(pair):
    ours, detector, side = pair
    with torch.no_grad():
        answer = answer_of(ours(torch.randn(1, 3, side, side)))
        scores = shipped(answer)[1]
    if "bbox_ctrness" in answer.heads:
        scores = scores**2 / answer.heads["bbox_ctrness"].sigmoid()
    seen = shipped(answer)[1] > 0.009  # below, a score of two shares is cut
    assert seen.any()
    np.testing.assert_allclose(answer.logits.sigmoid()[seen], scores[seen], atol=1e-5)


def test_its_stages_are_the_maps_that_the_head_looks_at(pair):
    ours, _, side = pair
    maps = []
    hook = ours.detector.head.register_forward_pre_hook(lambda module, given: maps.extend(given[0]))
    shapes = Tapped(ours, torch.randn(2, 3, side, side)).shapes
    hook.remove()
    seen = list(dict.fromkeys(tuple(each.shape[1:]) for each in maps))
    assert list(dict.fromkeys((s.channels, s.height, s.width) for s in shapes.stages)) == seen


def test_they_are_listed_and_those_of_points_are_refused():
    listed = names()["torchvision"]
    assert "torchvision/ssd300_vgg16" in listed and "torchvision/retinanet_resnet50_fpn_v2" in listed
    assert not any("keypoint" in name for name in listed)
    for refused in (build, pretrained_facts):
        with pytest.raises(UsageError, match="finds points") as caught:
            refused("torchvision/keypointrcnn_resnet50_fpn", *((LABELS, 3) if refused is build else ()))
        assert "maskrcnn_resnet50_fpn_v2" in str(caught.value)
    with pytest.raises(UsageError, match="did you mean one of .*torchvision/fcos_resnet50_fpn"):
        build("torchvision/fcos_resnet50", LABELS, 3)


def test_ssds_vgg_is_of_these_too():
    with torch.device("meta"):
        net = build("torchvision/ssd300_vgg16", LABELS, 3)
    assert net.stage_paths[:2] == ("detector.backbone.features", "detector.backbone.extra.0")
    assert net.detector.head.classification_head.num_columns == LABELS + 1


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels(channels):
    net = build("torchvision/ssdlite320_mobilenet_v3_large", LABELS, channels).eval()
    with torch.no_grad():
        assert shipped(answer_of(net(torch.randn(1, channels, 96, 96))))[1].shape[2] == LABELS


def test_what_is_known_of_the_weights():
    lite = pretrained_facts("torchvision/ssdlite320_mobilenet_v3_large")
    assert lite.classes == 80 and lite.mean == lite.std == (0.5, 0.5, 0.5)
    vgg = pretrained_facts("torchvision/ssd300_vgg16")
    assert vgg.std == pytest.approx((1 / 255,) * 3) and "ssd300_vgg16" in vgg.origin
    with pytest.raises(UsageError, match="no such weights"):
        pretrained_facts("torchvision/ssd300_vgg16", {"weights": "COCO_V9"})


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_the_weights_labels_are_kept_or_new(name, monkeypatch):
    """With random numbers in place of the download."""
    get_model, first = torchvision.models.get_model, int(name.startswith("ssd"))
    made = []

    def offline(name, weights, **options):
        assert weights.meta["categories"][0] == "__background__" and not options
        made.append(get_model(name, weights=None, weights_backbone=None, num_classes=91, **options))
        return made[-1].eval()

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    x = torch.randn(1, 3, 96, 96)

    with torch.no_grad():
        monkeypatch.setattr(torchvision_dense, "_swap_labels", lambda *given: None)
        whole = torchvision_dense.dense(name, 80, {}, pretrained=True).eval()
        wanted = whole.detector.head(list(whole.detector.backbone(x).values()))["cls_logits"]
        monkeypatch.undo()
        monkeypatch.setattr(torchvision.models, "get_model", lambda *args, **options: made[0])
        kept = torchvision_dense.dense(name, 80, {}, pretrained=True).eval()(x)
        categories = torchvision.models.get_model_weights(name).DEFAULT.meta["categories"]
        real = [i for i, category in enumerate(categories) if category not in ("N/A", "__background__")]
        columns = [0, *real] if first else real
        np.testing.assert_allclose(kept.heads["cls_logits"], wanted[..., columns], atol=1e-5)
        assert shipped(kept)[1].shape[2] == 80
