"""FCOS: Fully Convolutional One-Stage Object Detection. Tian, Shen, Chen and He, ICCV 2019, arXiv:1904.01355, with the
improvements of the journal's version (arXiv:2006.09214): centre sampling, and centerness beside the regression.

Apart from the paper: the towers have batch norms, one a level, in place of group norms, for those fold; the distances
come out of a softplus, not of an exponential.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
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
    both,
    check_options,
    clamped,
    flat,
    focal_loss,
    giou_loss,
    grid,
    or_nearest,
    picked,
)

RADIUS = 1.5  # in strides, around an object's centre


class FCOSAnswer(NamedTuple):
    """``logits`` [N, P, K], ``distances`` [N, P, 4] in pixels from the place to the box's left, top, right and bottom,
    ``centerness`` logits [N, P], ``places`` [P, 5]: x, y, stride, and the least and most that the largest of a place's
    distances may be; ``size`` the image's height and width; ``steps`` those of the towers."""

    logits: Tensor
    distances: Tensor
    centerness: Tensor
    places: Tensor
    size: tuple[int, int]
    steps: Steps | None = None

    def boxes(self) -> Tensor:
        """[N, P, 4]: x1, y1, x2, y2 in pixels."""
        x, y = self.places[:, 0], self.places[:, 1]
        left, top, right, bottom = self.distances.float().unbind(2)
        return torch.stack([x - left, y - top, x + right, y + bottom], 2)

    def shipped(self) -> tuple[Tensor, ...]:
        scores = both(self.logits.float().sigmoid(), self.centerness.float().sigmoid()[..., None])
        return clamped(self.boxes(), self.size), scores

    def loss(self, y: Tensor) -> Tensor:
        """Focal loss of the classes, GIoU loss of the boxes, binary cross-entropy of the centerness (equation 2, with
        GIoU). ``y`` float [N, M, 6] as in ``data.objects``. A float32 scalar: sums over all places, divided by the
        number of those that have an object, in all processes."""
        with torch.no_grad():
            found = assigned(self.places, y)
        return self.loss_of(y, *found)

    def loss_of(self, y: Tensor, index: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
        """The same, of objects that are ``assigned``."""
        with torch.no_grad():
            objects = picked(y, index)
            wanted = objects[..., BOX]
            centres = centerness(distances(self.places, wanted)) * positive
            count, weight = (total(each) / processes() for each in (positive.sum().float(), centres.sum()))
        focal = focal_loss(self.logits, objects, positive, ignored)
        overlap = giou_loss(self.boxes(), wanted)
        centre = F.binary_cross_entropy_with_logits(self.centerness.float(), centres, reduction="none")
        count, weight = count.clamp(min=1.0), weight.clamp(min=1e-6)
        return (focal + (centre * positive).sum()) / count + (overlap * centres).sum() / weight


def distances(places: Tensor, boxes: Tensor) -> Tensor:
    """[..., P, 4] in pixels from ``places`` [P, 5] to the left, top, right and bottom of ``boxes`` [..., P, 4]; below 0
    where the place is outside."""
    x, y = places[:, 0], places[:, 1]
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x - x1, y - y1, x2 - x, y2 - y], -1)


def centerness(away: Tensor) -> Tensor:
    """How near the middle of its box a place is, 0..1 (equation 3); of distances [..., 4]."""
    left, top, right, bottom = away.clamp(min=0.0).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-6)
    along = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=1e-6)
    return (across * along).sqrt()


def assigned(places: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each place of each image the number of its object, int64 [N, P], whether it has one, and whether it is in a
    crowd and has none, bool [N, P]. A place has an object where it is inside its box, at most ``RADIUS`` strides from
    its centre, and the largest distance is in the place's range; of several the smallest. An object that no place has
    so, for it is small, goes to the nearest to its centre."""
    boxes, kind = y[..., BOX], y[..., KIND]
    at = boxes[:, :, None].expand(-1, -1, len(places), -1)  # [N, M, P, 4]
    away = distances(places, at)
    inside = away.amin(3) > 0
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    off = (centre[:, :, None] - places[:, :2]).abs().amax(3)
    largest = away.amax(3)
    fits = inside & (off < RADIUS * places[:, 2]) & (largest >= places[:, 3]) & (largest < places[:, 4])
    there = kind == OBJECT
    fits = or_nearest(fits, off, places[:, 2]) & there[..., None]
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))[..., None]
    area = torch.where(fits, area, torch.inf)
    smallest, index = area.min(1)
    positive = smallest < torch.inf
    ignored = (inside & (kind == CROWD)[..., None]).any(1) & ~positive
    return index, positive, ignored


class FCOS(Towered):
    """float [N, C, H, W] -> FCOSAnswer. The convolutions are shared by the levels, their batch norms are not."""

    def __init__(self, backbone: Backbone, classes: int, width: int, levels: int, depth: int, reach: float):
        super().__init__(Pyramid(backbone, width, levels), width, levels, depth)
        self.logits = nn.Conv2d(width, classes, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)
        begin(self.logits, self.distances, self.centerness)
        self.scales = nn.Parameter(torch.ones(levels))
        self.reach = reach

    def outputs(self, what: Tensor, where: Tensor) -> tuple[Tensor, ...]:
        """Of what the two towers give of a level."""
        return self.logits(what), self.distances(where), self.centerness(where)

    def answer(self, steps: Steps, size: tuple[int, int]) -> FCOSAnswer:
        return self.answer_of(self.joined(steps), steps, size)

    def joined(self, steps: Steps) -> tuple[Tensor, ...]:
        """The outputs of all levels, [N, P, ...] each."""
        found = [[flat(output) for output in self.outputs(*ends)] for ends in self.ends(steps)]
        return tuple(torch.cat(parts, 1) for parts in zip(*found, strict=True))

    def answer_of(self, outputs: tuple[Tensor, ...], steps: Steps, size: tuple[int, int]) -> FCOSAnswer:
        logits, raw, centres = outputs
        maps = [level[0] for level in steps["boxes"]]
        strides = torch.cat([
            scale * stride * torch.ones(map.shape[-2] * map.shape[-1], 1, device=raw.device)
            for scale, stride, map in zip(self.scales, self.pyramid.strides, maps)
        ])  # fmt: skip
        away = F.softplus(raw.float()) * strides
        return FCOSAnswer(logits, away, centres[..., 0], self.places(maps), size, steps)

    def places(self, maps: list[Tensor]) -> Tensor:
        """[P, 5], see ``FCOSAnswer``: an object belongs to the level whose stride its size is ``reach`` times at
        most."""
        found = []
        for level, (map, stride) in enumerate(zip(maps, self.pyramid.strides)):
            middles = grid(map, stride)
            least = self.reach * self.pyramid.strides[level - 1] if level else 0.0
            most = self.reach * stride if level + 1 < len(maps) else math.inf
            rest = torch.tensor([float(stride), least, most], device=map.device).expand(len(middles), 3)
            found.append(torch.cat([middles, rest], 1))
        return torch.cat(found)


@heads.register("fcos")
def fcos(
    backbone: Backbone, classes: int, width: int = 64, levels: int = 5, depth: int = 2, reach: float = 8.0
) -> FCOS:
    """``width``: channels of the pyramid and the towers. ``levels``: of the pyramid. ``depth``: convolutions a tower.
    ``reach``: the largest size of an object, in strides, that a level is for."""
    check_options(width=(width, 4), levels=(levels, 1), depth=(depth, 0), reach=(reach, 1))
    return FCOS(backbone, classes, width, levels, depth, reach)
