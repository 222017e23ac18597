"""RetinaNet: Focal Loss for Dense Object Detection. Lin, Goyal, Girshick, He and Dollar, ICCV 2017, arXiv:1708.02002.

Apart from the paper: the towers have batch norms, one a level, which fold, and by default fewer convolutions; boxes
are learnt by the L1 loss of their coded differences, as in torchvision.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdcompress.data.objects import BOX, CROWD, KIND, OBJECT
from kdcompress.distributed import processes, total
from kdcompress.models.detectors import heads
from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.detectors.pyramid import Pyramid
from kdcompress.models.detectors.towers import (
    Steps,
    Towered,
    begin,
    check_options,
    clamped,
    flat,
    focal_loss,
    grid,
    iou,
    picked,
)

SIZES = tuple(2 ** (k / 3) for k in range(3))  # of a place's anchors, relative to the smallest
RATIOS = (0.5, 1.0, 2.0)  # height / width
FOREGROUND, BACKGROUND = 0.5, 0.4  # overlaps from which, and below which, an anchor has an object
LARGEST = math.log(1000 / 16)  # of a coded size: what exp takes


class RetinaNetAnswer(NamedTuple):
    """``logits`` [N, P, K] and ``codes`` [N, P, 4] of P ``anchors`` [P, 4], x1, y1, x2, y2 in pixels; ``size`` the
    image's height and width; ``steps`` those of the towers."""

    logits: Tensor
    codes: Tensor
    anchors: Tensor
    size: tuple[int, int]
    steps: Steps | None = None

    def boxes(self) -> Tensor:
        """[N, P, 4]: x1, y1, x2, y2 in pixels."""
        return decoded(self.anchors, self.codes.float())

    def shipped(self) -> tuple[Tensor, ...]:
        return clamped(self.boxes(), self.size), self.logits.float().sigmoid()

    def loss(self, y: Tensor) -> Tensor:
        """Focal loss of the classes and L1 loss of the coded boxes (section 3 and 4.1). ``y`` float [N, M, 6] as in
        ``data.objects``. A float32 scalar: sums over all anchors, divided by the number of those that have an object,
        in all processes."""
        with torch.no_grad():
            index, positive, ignored = assigned(self.anchors, y)
            objects = picked(y, index)
            wanted = coded(self.anchors, objects[..., BOX])
            count = (total(positive.sum().float()) / processes()).clamp(min=1.0)
        focal = focal_loss(self.logits, objects, positive, ignored)
        away = torch.where(positive[..., None], self.codes.float() - wanted, 0.0).abs()
        return (focal + away.sum()) / count


def middles(boxes: Tensor) -> tuple[Tensor, ...]:
    """The middles x and y, the widths and the heights of boxes [..., 4]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def coded(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Boxes [N, P, 4] as differences to their anchors [P, 4]: of the middles in the anchor's sizes, of the sizes as
    logarithms of their ratios."""
    x, y, width, height = middles(anchors)
    bx, by, bw, bh = middles(boxes)
    sizes = ((bw.clamp(min=1e-3) / width).log(), (bh.clamp(min=1e-3) / height).log())
    return torch.stack([(bx - x) / width, (by - y) / height, *sizes], -1)


def decoded(anchors: Tensor, codes: Tensor) -> Tensor:
    """The boxes [N, P, 4] of such differences."""
    x, y, width, height = middles(anchors)
    dx, dy, dw, dh = codes.unbind(2)
    x, y = x + dx * width, y + dy * height
    width, height = width * dw.clamp(max=LARGEST).exp() / 2, height * dh.clamp(max=LARGEST).exp() / 2
    return torch.stack([x - width, y - height, x + width, y + height], 2)


def overlaps(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Intersection over union of boxes [N, M, 4] and anchors [P, 4]: [N, M, P]; 0 of boxes without an area."""
    return iou(boxes[:, :, None], anchors)


def assigned(anchors: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor of each image the number of its object, int64 [N, P], whether it has one, and whether it counts
    neither way, bool [N, P]. An anchor has the object that it overlaps most, where that is by ``FOREGROUND`` or more,
    or where of all anchors it overlaps one most; else it counts neither way from ``BACKGROUND`` on, or in a crowd."""
    found = overlaps(y[..., BOX], anchors)
    there, crowd = y[..., KIND] == OBJECT, y[..., KIND] == CROWD
    own = torch.where(there[..., None], found, -1.0)
    best, index = own.max(1)
    nearest = own == own.amax(2, keepdim=True).clamp(min=1e-6)
    positive = (best >= FOREGROUND) | nearest.any(1)
    inside = torch.where(crowd[..., None], found, -1.0).amax(1) >= BACKGROUND
    return index, positive, ((best >= BACKGROUND) | inside) & ~positive


class RetinaNet(Towered):
    """float [N, C, H, W] -> RetinaNetAnswer."""

    def __init__(self, backbone: Backbone, classes: int, width: int, levels: int, depth: int, scale: float):
        super().__init__(Pyramid(backbone, width, levels), width, levels, depth)
        self.classes, self.scale, shapes = classes, scale, len(SIZES) * len(RATIOS)
        self.logits = nn.Conv2d(width, shapes * classes, 3, padding=1)
        self.codes = nn.Conv2d(width, shapes * 4, 3, padding=1)
        begin(self.logits, self.codes)

    def answer(self, steps: Steps, size: tuple[int, int]) -> RetinaNetAnswer:
        ends = self.ends(steps)
        logits = torch.cat([flat(self.logits(what), self.classes) for what, _ in ends], 1)
        codes = torch.cat([flat(self.codes(where), 4) for _, where in ends], 1)
        return RetinaNetAnswer(logits, codes, self.anchors([level[0] for level in steps["boxes"]]), size, steps)

    def anchors(self, maps: list[Tensor]) -> Tensor:
        """[P, 4]: nine around the middle of each place, the smallest with ``scale`` times its stride's square."""
        found = []
        for map, stride in zip(maps, self.pyramid.strides):
            middle = grid(map, stride)
            sides = [self.scale * stride * size for size in SIZES]
            halves = torch.tensor(
                [[side * ratio**-0.5 / 2, side * ratio**0.5 / 2] for ratio in RATIOS for side in sides],
                device=map.device,
            )
            corners = torch.cat([middle[:, None] - halves, middle[:, None] + halves], 2)
            found.append(corners.flatten(0, 1))
        return torch.cat(found)


@heads.register("retinanet")
def retinanet(
    backbone: Backbone, classes: int, width: int = 64, levels: int = 5, depth: int = 2, scale: float = 4.0
) -> RetinaNet:
    """``width``: channels of the pyramid and the towers. ``levels``: of the pyramid. ``depth``: convolutions a tower.
    ``scale``: the side of the smallest anchors, in strides."""
    check_options(width=(width, 4), levels=(levels, 1), depth=(depth, 0), scale=(scale, 0.5))
    return RetinaNet(backbone, classes, width, levels, depth, scale)
