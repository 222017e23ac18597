"""Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection. Li, Wang, Wu,
Chen, Hu, Li, Tang and Yang, NeurIPS 2020, arXiv:2006.04388. A label's score is how well the box fits, too; each side of
a box is a distribution of its distance.

Places get their objects as in the paper, by ATSS (Zhang, Chi, Yao, Lei and Li, CVPR 2020, arXiv:1912.02424). Apart from
the papers: the towers have batch norms, one a level, which fold; an object that ATSS gives no place goes to the nearest
to its centre; by default fewer convolutions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.data.objects import BOX, CLASS, CROWD, KIND, OBJECT
from kdcompress.distributed import processes, total
from kdcompress.models.detectors import heads
from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.detectors.head_fcos import distances
from kdcompress.models.detectors.pyramid import Pyramid
from kdcompress.models.detectors.towers import (
    Steps,
    Towered,
    begin,
    check_options,
    clamped,
    flat,
    giou_loss,
    grid,
    iou,
    or_nearest,
    picked,
    quality_focal,
)

NEAREST = 9  # places of a level that an object may have
OVERLAP, DISTRIBUTION = 2.0, 0.25  # weights of the boxes' losses beside that of the classes
SHORT = 0.1  # by which a distance stays below the largest that there is


class GFLAnswer(NamedTuple):
    """``logits`` [N, P, K]; ``bins`` [N, P, 4, reach + 1]: logits of the distance, of so many strides, from the place
    to the box's left, top, right and bottom; ``places`` [P, 4]: x, y, stride, and the side of the place's anchor, a
    square; ``counts`` of them, level by level; ``size`` the image's height and width; ``steps`` those of the towers."""

    logits: Tensor
    bins: Tensor
    places: Tensor
    counts: tuple[int, ...]
    size: tuple[int, int]
    steps: Steps | None = None

    def boxes(self) -> Tensor:
        """[N, P, 4]: x1, y1, x2, y2 in pixels, at the means of the distributions (equation 5)."""
        x, y, stride = self.places[:, 0], self.places[:, 1], self.places[:, 2, None]
        strides = torch.arange(self.bins.shape[3], device=self.bins.device).float()
        # a sum, no matrix product: that would be a layer, and what stands before a layer is quantised
        away = (self.bins.float().softmax(3) * strides).sum(3) * stride
        left, top, right, bottom = away.unbind(2)
        return torch.stack([x - left, y - top, x + right, y + bottom], 2)

    def shipped(self) -> tuple[Tensor, ...]:
        return clamped(self.boxes(), self.size), self.logits.float().sigmoid()

    def assigned(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return assigned(self.places, self.counts, y)

    def loss(self, y: Tensor) -> Tensor:
        """Quality focal loss of the classes, GIoU loss and distribution focal loss of the boxes (equation 8). ``y``
        float [N, M, 6] as in ``data.objects``. A float32 scalar: sums over all places, that of the classes divided by
        the number of those that have an object, those of the boxes weighted by the score and divided by the sum of
        these weights, in all processes."""
        boxes = self.boxes()
        with torch.no_grad():
            index, positive, ignored = self.assigned(y)
            objects = picked(y, index)
            wanted = objects[..., BOX]
            quality = iou(boxes, wanted) * positive
            weight = self.logits.float().sigmoid().amax(2) * positive
            count, whole = (total(each) / processes() for each in (positive.sum().float(), weight.sum()))
            away = distances(self.places, wanted) / self.places[:, 2, None]
        numbers = objects[..., CLASS].long().clamp(min=0)
        targets = F.one_hot(numbers, self.logits.shape[2]) * quality[..., None]
        focal = quality_focal(self.logits, targets) * ~ignored
        overlap = giou_loss(boxes, wanted)
        sides = OVERLAP * overlap + DISTRIBUTION * distribution_focal(self.bins, away).mean(2)
        sides = torch.where(positive, sides * weight, 0.0)
        return focal.sum() / count.clamp(min=1.0) + sides.sum() / whole.clamp(min=1e-6)


def distribution_focal(bins: Tensor, away: Tensor) -> Tensor:
    """Distribution focal loss (equation 6): the surprise of the two bins around a distance, each as much as the
    distance is near to it. ``bins`` logits [..., B], ``away`` [...] in bins, cut to 0..B - 1 -> float32 [...]."""
    away = away.clamp(0.0, bins.shape[-1] - 1 - SHORT)
    left = away.floor()
    found = bins.float().log_softmax(-1).gather(-1, torch.stack([left, left + 1], -1).long())
    return -((left + 1 - away) * found[..., 0] + (away - left) * found[..., 1])


def anchors(places: Tensor) -> Tensor:
    """[P, 4]: x1, y1, x2, y2 of the squares around ``places`` [P, 4]."""
    middle, half = places[:, :2], places[:, 3:] / 2
    return torch.cat([middle - half, middle + half], 1)


def thresholds(places: Tensor, counts: tuple[int, ...], boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ATSS: of boxes [N, M, 4] and the anchors of ``places`` the overlaps [N, M, P]; whether an anchor is, of its
    level, among the nine whose middles are the nearest to a box's; and mean + deviation of these anchors' overlaps
    [N, M], from which on they are the box's."""
    found = iou(boxes[:, :, None], anchors(places))
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    off = (middle[:, :, None] - places[:, :2]).square().sum(3)
    near = []
    for level in off.split(counts, 2):
        nearest = level.topk(min(NEAREST, level.shape[2]), largest=False).indices
        near.append(torch.zeros_like(level).scatter(2, nearest, 1.0))
    among = torch.cat(near, 2)
    count = among.sum(2)
    mean = (found * among).sum(2) / count
    variance = ((found - mean[..., None]).square() * among).sum(2) / (count - 1).clamp(min=1.0)
    return found, among.bool(), mean + variance.sqrt()


def assigned(places: Tensor, counts: tuple[int, ...], y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each place of each image the number of its object, int64 [N, P], whether it has one, and whether it is in a
    crowd and has none, bool [N, P]. A place has an object where it is inside its box, among the nearest, and its anchor
    overlaps the box by the object's threshold; of several the one that is overlapped most. An object that no place has
    so goes to the nearest to its centre."""
    boxes, there = y[..., BOX], y[..., KIND] == OBJECT
    found, near, least = thresholds(places, counts, boxes)
    inside = distances(places, boxes[:, :, None].expand(-1, -1, len(places), -1)).amin(3) > 0
    fits = near & inside & (found >= least[..., None])
    off = ((boxes[..., :2] + boxes[..., 2:])[:, :, None] / 2 - places[:, :2]).abs().amax(3)
    fits = or_nearest(fits, off, places[:, 2]) & there[..., None]
    best, index = torch.where(fits, found, -1.0).max(1)
    positive = best >= 0
    ignored = (inside & (y[..., KIND] == CROWD)[..., None]).any(1) & ~positive
    return index, positive, ignored


class GFL(Towered):
    """float [N, C, H, W] -> GFLAnswer."""

    def __init__(self, backbone: Backbone, classes: int, width: int, levels: int, depth: int, reach: int, scale: float):
        super().__init__(Pyramid(backbone, width, levels), width, levels, depth)
        self.logits = nn.Conv2d(width, classes, 3, padding=1)
        self.bins = nn.Conv2d(width, 4 * (reach + 1), 3, padding=1)
        begin(self.logits, self.bins)
        self.scales = nn.Parameter(torch.ones(levels))
        self.reach, self.scale = reach, scale

    def answer(self, steps: Steps, size: tuple[int, int]) -> GFLAnswer:
        ends = self.ends(steps)
        logits = [flat(self.logits(what)) for what, _ in ends]
        bins = torch.cat([scale * flat(self.bins(where)) for scale, (_, where) in zip(self.scales, ends)], 1)
        places = self.places([level[0] for level in steps["boxes"]])
        counts = tuple(each.shape[1] for each in logits)
        return GFLAnswer(torch.cat(logits, 1), bins.unflatten(2, (4, self.reach + 1)), places, counts, size, steps)

    def places(self, maps: list[Tensor]) -> Tensor:
        """[P, 4], see ``GFLAnswer``."""
        found = []
        for map, stride in zip(maps, self.pyramid.strides):
            middles = grid(map, stride)
            rest = torch.tensor([float(stride), self.scale * stride], device=map.device).expand(len(middles), 2)
            found.append(torch.cat([middles, rest], 1))
        return torch.cat(found)


@heads.register("gfl")
def gfl(
    backbone: Backbone,
    classes: int,
    width: int = 64,
    levels: int = 5,
    depth: int = 2,
    reach: int = 16,
    scale: float = 8.0,
) -> GFL:
    """``width``: channels of the pyramid and the towers. ``levels``: of the pyramid. ``depth``: convolutions a tower.
    ``reach``: the largest distance from a place to a side of its box, in strides. ``scale``: the side of the squares
    that decide which object a place has, in strides."""
    check_options(width=(width, 4), levels=(levels, 1), depth=(depth, 0), reach=(reach, 1), scale=(scale, 0.5))
    return GFL(backbone, classes, width, levels, depth, int(reach), scale)
