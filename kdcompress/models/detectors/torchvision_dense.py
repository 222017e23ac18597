"""torchvision's detectors, by name, giving dense answers. Here are SSD, SSDlite, FCOS and RetinaNet; Faster R-CNN and
Mask R-CNN are in ``torchvision_two_stage``.

The networks, their anchors and their losses are torchvision's own. What it does to images before them is left out: they
come normalised, and at the size that they have. A crowd is background to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from kdcompress.data.objects import BOX, CLASS, KIND, OBJECT
from kdcompress.errors import UsageError
from kdcompress.models.detectors import torchvision_two_stage
from kdcompress.models.detectors.head_retinanet import decoded
from kdcompress.models.detectors.towers import both, clamped, log_odds

NO_LABELS = ("__background__", "N/A")  # among the categories of torchvision's weights
NAMES = ("fcos", "retinanet", "ssd", "fasterrcnn", "maskrcnn")  # what they begin with
WITH_BACKGROUND = ("ssd", "fasterrcnn", "maskrcnn")  # as a label, the first


class TorchvisionAnswer(NamedTuple):
    """``heads``: what torchvision's head gave, among it ``cls_logits`` [N, P, K], or K + 1 with SSD's background first,
    and ``bbox_regression`` [N, P, 4]. ``anchors`` [P, 4]: x1, y1, x2, y2 in pixels; ``counts`` of them, map by map;
    ``size`` the image's height and width; ``detector`` torchvision's."""

    heads: dict[str, Tensor]
    anchors: Tensor
    counts: tuple[int, ...]
    size: tuple[int, int]
    detector: Any

    @property
    def logits(self) -> Tensor:
        """[N, P, K]. SSD's are those whose sigmoid is the label's share in its softmax."""
        given = self.heads["cls_logits"]
        if not isinstance(self.detector, SSD):
            return given
        return log_odds(given.log_softmax(2)[..., 1:])

    def boxes(self) -> Tensor:
        """[N, P, 4]: x1, y1, x2, y2 in pixels."""
        codes, coder = self.heads["bbox_regression"].float(), self.detector.box_coder
        if isinstance(self.detector, FCOS):
            found: Tensor = coder.decode(codes, self.anchors)
            return found
        return decoded(self.anchors, codes / torch.tensor(coder.weights, device=codes.device))

    def shipped(self) -> tuple[Tensor, ...]:
        given = self.heads["cls_logits"].float()
        if isinstance(self.detector, SSD):
            scores = given.softmax(2)[..., 1:]
        elif isinstance(self.detector, FCOS):
            scores = both(given.sigmoid(), self.heads["bbox_ctrness"].float().sigmoid())
        else:
            scores = given.sigmoid()
        return clamped(self.boxes(), self.size), scores

    def loss(self, y: Tensor) -> Tensor:
        """The sum of torchvision's own losses; ``y`` float [N, M, 6] as in ``data.objects``. A float32 scalar: each
        term is divided by the number of anchors that have an object, of the batch or, in RetinaNet, image by image."""
        heads = {name: each.float() for name, each in self.heads.items()}
        first = 1 if isinstance(self.detector, SSD) else 0
        rows = [each[each[:, KIND] == OBJECT] for each in y]
        targets = [{"boxes": each[:, BOX], "labels": each[:, CLASS].long() + first} for each in rows]
        anchors = [self.anchors] * len(y)
        if isinstance(self.detector, SSD):
            matched = [self._matched(target["boxes"]) for target in targets]
            parts = self.detector.compute_loss(targets, heads, anchors, matched)
        elif isinstance(self.detector, FCOS):
            parts = self.detector.compute_loss(targets, heads, anchors, list(self.counts))
        else:
            parts = self.detector.compute_loss(targets, heads, anchors)
        return torch.stack(list(parts.values())).sum()

    def _matched(self, boxes: Tensor) -> Tensor:
        """The number of each anchor's object, int64 [P], or -1."""
        if not len(boxes):
            return torch.full((len(self.anchors),), -1, dtype=torch.int64, device=boxes.device)
        found: Tensor = self.detector.proposal_matcher(box_iou(boxes, self.anchors))
        return found


class TorchvisionDense(nn.Module):
    """float [N, C, H, W] -> TorchvisionAnswer, of a torchvision detector."""

    def __init__(self, detector: FCOS | RetinaNet | SSD):
        super().__init__()
        self.detector = detector

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: the levels of the pyramid, or SSD's maps."""
        backbone: Any = self.detector.backbone
        if hasattr(backbone, "fpn"):
            further = [name for name, _ in backbone.fpn.extra_blocks.named_children()]
            found = [f"fpn.layer_blocks.{i}" for i in range(len(backbone.fpn.layer_blocks))]
            found += [f"fpn.extra_blocks.{name}" for name in further]
        else:
            whole = hasattr(backbone, "scale_weight")  # VGG's first part is one map, MobileNet's two parts are two
            found = ["features"] if whole else [f"features.{i}" for i in range(len(backbone.features))]
            found += [f"extra.{i}" for i in range(len(backbone.extra))]
        return tuple(f"detector.backbone.{path}" for path in found)

    def forward(self, x: Tensor) -> TorchvisionAnswer:
        maps = list(self.detector.backbone(x).values())
        heads, size = self.detector.head(maps), (x.shape[-2], x.shape[-1])
        grids = [(map.shape[-2], map.shape[-1]) for map in maps]
        generator: Any = self.detector.anchor_generator
        if isinstance(generator, AnchorGenerator):
            anchors = torch.cat(generator.grid_anchors(grids, [(size[0] // h, size[1] // w) for h, w in grids]))
        else:
            middles, sizes = generator._grid_default_boxes(grids, size).split(2, 1)
            scale = torch.tensor([float(size[1]), float(size[0])] * 2)
            anchors = torch.cat([middles - sizes / 2, middles + sizes / 2], 1) * scale
        each = generator.num_anchors_per_location()
        counts = tuple(count * h * w for count, (h, w) in zip(each, grids, strict=True))
        return TorchvisionAnswer(heads, anchors.to(x.device), counts, size, self.detector)


def detectors() -> list[str]:
    """The names of those that give dense answers."""
    return [name for name in every() if name.startswith(NAMES)]


def every() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models.detection)


def check(name: str) -> None:
    """Raises UsageError for a detector that gives more than boxes and masks."""
    if not name.startswith(NAMES):
        raise UsageError(
            f"torchvision/{name} finds points, which kdcompress does not learn.",
            where="model",
            allowed=", ".join(f"torchvision/{name}" for name in detectors()),
        )


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in 0..1, as the network's weights expect them."""
    with torch.device("meta"):
        transform: Any = torchvision.models.get_model(name, weights=None, weights_backbone=None).transform
    return tuple(transform.image_mean), tuple(transform.image_std)


def labels_of(categories: list[str]) -> list[int]:
    """The numbers of the categories that are labels."""
    return [number for number, category in enumerate(categories) if category not in NO_LABELS]


def dense(name: str, classes: int, options: dict[str, Any], pretrained: bool) -> nn.Module:
    """A detector for ``classes`` labels. ``pretrained``: with torchvision's weights; its last layers for labels are new
    ones where there are more or fewer labels than these know. Raises what torchvision raises."""
    background = 1 if name.startswith(WITH_BACKGROUND) else 0
    if not pretrained:
        made = {"weights": None, "weights_backbone": None, **options, "num_classes": classes + background}
        return _wrapped(torchvision.models.get_model(name, **made))
    weights = torchvision.models.get_model_weights(name).verify(options.get("weights") or "DEFAULT")
    detector: Any = torchvision.models.get_model(name, **{**options, "weights": weights})
    categories = weights.meta["categories"]
    labels = labels_of(categories)
    kept = [*range(background), *labels] if classes == len(labels) else None
    swap = torchvision_two_stage.swap_labels if hasattr(detector, "roi_heads") else _swap_labels
    swap(detector, len(categories), classes + background, kept)
    return _wrapped(detector)


def _wrapped(detector: Any) -> nn.Module:
    if hasattr(detector, "roi_heads"):
        return torchvision_two_stage.TorchvisionTwoStage(detector)
    return TorchvisionDense(detector)


def _swap_labels(detector: Any, old: int, new: int, kept: list[int] | None) -> None:
    """The last layers for ``new`` labels in place of ``old``: those of the numbers ``kept``, or drawn anew."""
    head = detector.head.classification_head
    lists = getattr(head, "module_list", None)
    if lists is None:
        layers, head.num_classes = [head.cls_logits], new
    else:  # SSDlite's are the last of a block
        layers = [[m for m in part.modules() if isinstance(m, nn.Conv2d)][-1] for part in lists]
        head.num_columns = new
    for layer in layers:
        shapes = layer.out_channels // old
        layer.out_channels = shapes * new
        for name in ("weight", "bias"):
            before = getattr(layer, name).detach().unflatten(0, (shapes, old))
            after = before.new_empty(shapes, new, *before.shape[2:])
            if kept is not None:
                after = before[:, kept]
            elif name == "weight":
                nn.init.normal_(after, std=0.01)
            else:  # all labels are rare, as before training
                after.fill_(before.mean().item())
            setattr(layer, name, nn.Parameter(after.flatten(0, 1).contiguous()))
