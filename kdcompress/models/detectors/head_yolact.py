"""YOLACT: Real-time Instance Segmentation. Bolya, Zhou, Xiao and Lee, ICCV 2019, arXiv:1904.02689: an image's
prototypes, and for each place the coefficients of a mask, which is the sigmoid of their linear combination.

Apart from the paper: boxes and classes are those of FCOS (head_fcos.py), without anchors, and the coefficients come
from its tower for boxes; the loss of the masks has a Dice term (V-Net: Milletari, Navab and Ahmadi, 3DV 2016,
arXiv:1606.04797, section 3) beside the cross-entropy; there is no semantic segmentation loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.data.objects import BOX, WIDTH
from kdcompress.distributed import processes, total
from kdcompress.errors import UsageError
from kdcompress.models.detectors import heads
from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.detectors.head_fcos import FCOS, FCOSAnswer, assigned, centerness, distances
from kdcompress.models.detectors.pyramid import conv_norm
from kdcompress.models.detectors.towers import Steps, check_masks, check_options, picked
from kdcompress.segments import SHARE

PLACES = 64  # of an image, whose masks are learnt in a step: the nearest to their objects' centres
WEIGHT = 1.0  # of the masks' loss


class YolactAnswer(NamedTuple):
    """What FCOS says, ``coefficients`` [N, P, C] from -1 to 1 and ``prototypes`` [N, C, h, w]."""

    detected: FCOSAnswer
    coefficients: Tensor
    prototypes: Tensor

    @property
    def logits(self) -> Tensor:
        return self.detected.logits

    @property
    def steps(self) -> Steps | None:
        return self.detected.steps

    @property
    def size(self) -> tuple[int, int]:
        return self.detected.size

    def boxes(self) -> Tensor:
        return self.detected.boxes()

    def shipped(self) -> tuple[Tensor, ...]:
        return *self.detected.shipped(), self.coefficients.float(), self.prototypes.float()

    def loss(self, y: Tensor) -> Tensor:
        """FCOS's, and that of the masks. ``y`` float [N, M, 6 + h * w] as in a batch (``data.outlined.with_masks``). A
        float32 scalar."""
        check_masks(y, self.prototypes.shape[-2] * self.prototypes.shape[-1])
        objects = y[..., :WIDTH]
        with torch.no_grad():
            index, positive, ignored = assigned(self.detected.places, objects)
        return self.detected.loss_of(objects, index, positive, ignored) + WEIGHT * self.mask_loss(y, index, positive)

    def mask_loss(self, y: Tensor, index: Tensor, positive: Tensor) -> Tensor:
        """Binary cross-entropy, averaged over the cells of the object's box (the paper's section 3.3), and 1 - Dice;
        averaged over the places that have an object, in all processes; in each image at most ``PLACES`` of them."""
        with torch.no_grad():
            wanted = picked(y[..., :WIDTH], index)[..., BOX]
            near = centerness(distances(self.detected.places, wanted)) * positive
            chosen = near.topk(min(PLACES, near.shape[1])).indices
            there = positive.gather(1, chosen)
            count = (total(there.sum().float()) / processes()).clamp(min=1.0)
            objects = picked(y, index.gather(1, chosen))
            masks = objects[..., WIDTH:]
            inside = within(objects[..., BOX] / SHARE, self.prototypes.shape[-2], self.prototypes.shape[-1])
        sums = picked(self.coefficients, chosen).float() @ self.prototypes.float().flatten(2)
        cross = F.binary_cross_entropy_with_logits(sums, masks, reduction="none")
        area = inside.sum(2).clamp(min=1.0)
        share = sums.sigmoid() * inside
        both, either = (share * masks).sum(2), (share.square() + masks.square() * inside).sum(2)
        dice = 1 - 2 * both / either.clamp(min=1.0)
        return ((cross * inside).sum(2) / area + dice).mul(there).sum() / count


def within(boxes: Tensor, height: int, width: int) -> Tensor:
    """The cells, row by row, that boxes [..., 4] in cells touch: float [..., height * width] of 0 and 1."""
    x1, y1, x2, y2 = (side[..., None] for side in boxes.unbind(-1))
    x, y = (torch.arange(side, device=boxes.device) for side in (width, height))
    columns, rows = (x + 1 > x1) & (x < x2), (y + 1 > y1) & (y < y2)
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2).float()


class Prototypes(nn.Module):
    """The pyramid's finest map, at 1 / ``stride`` of the image -> prototypes [N, C, h, w] at 1 / ``SHARE``."""

    def __init__(self, width: int, depth: int, stride: int, prototypes: int):
        super().__init__()
        self.before = nn.ModuleList(conv_norm(width, width, 3) for _ in range(depth))
        doublings = 0
        while SHARE << doublings < stride:
            doublings += 1
        self.finer = nn.ModuleList(conv_norm(width, width, 3) for _ in range(doublings))
        self.last = nn.Conv2d(width, prototypes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.before:
            x = convolution(x).relu()
        for convolution in self.finer:
            x = convolution(F.interpolate(x, size=[2 * side for side in x.shape[-2:]], mode="nearest")).relu()
        found: Tensor = self.last(x).relu()
        return found


class Yolact(FCOS):
    """float [N, C, H, W] -> YolactAnswer, for images whose sides are multiples of the finest map's ``stride``."""

    def __init__(
        self, backbone: Backbone, classes: int, width: int, levels: int, depth: int, reach: float, prototypes: int
    ):
        super().__init__(backbone, classes, width, levels, depth, reach)
        self.stride = self.pyramid.strides[0]
        if self.stride < SHARE or self.stride & (self.stride - 1):
            what, where = "Masks cannot be made of so fine a map.", "options.finest"
            raise UsageError(what, where=where, got=self.stride, allowed=f"{SHARE}, {2 * SHARE}, {4 * SHARE} ...")
        self.coefficients = nn.Conv2d(width, prototypes, 3, padding=1)
        self.prototypes = Prototypes(width, depth, self.stride, prototypes)

    def outputs(self, what: Tensor, where: Tensor) -> tuple[Tensor, ...]:
        return *super().outputs(what, where), self.coefficients(where)

    def answer(self, steps: Steps, size: tuple[int, int]) -> YolactAnswer:  # type: ignore[override]
        if size[0] % self.stride or size[1] % self.stride:
            got, allowed = f"{size[0]} x {size[1]}", f"multiples of {self.stride}"
            raise UsageError("Masks need images of other sides.", where="data.size", got=got, allowed=allowed)
        *detected, raw = self.joined(steps)
        finest = steps["boxes"][0][0]
        return YolactAnswer(self.answer_of(tuple(detected), steps, size), raw.tanh(), self.prototypes(finest))


@heads.register("yolact")
def yolact(
    backbone: Backbone,
    classes: int,
    width: int = 64,
    levels: int = 5,
    depth: int = 2,
    reach: float = 8.0,
    prototypes: int = 16,
) -> Yolact:
    """``prototypes``: how many a mask is combined of. The others as of ``fcos``; the prototypes have ``depth``
    convolutions too."""
    check_options(width=(width, 4), levels=(levels, 1), depth=(depth, 0), reach=(reach, 1), prototypes=(prototypes, 1))
    return Yolact(backbone, classes, width, levels, depth, reach, prototypes)
