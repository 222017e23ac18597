"""A two-stage detector's regions with static shapes, as exporters ask for: proposals, and what the maps of a pyramid
hold of each.

They are those of Faster R-CNN (Ren, He, Girshick and Sun, NeurIPS 2015, arXiv:1506.01497) on a pyramid (Lin et al.,
CVPR 2017, arXiv:1612.03144), as in torchvision. Ours is how: a suppression without a loop over boxes, and one map of
all levels, of which RoIAlign takes all regions at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from kdcompress.models.detectors.head_retinanet import decoded
from kdcompress.models.detectors.towers import clamped

NONE = -1e4  # a logit of what is left out; finite in fp16
ROUNDS = 8  # of a suppression; even, so that what is not settled by then is kept
SIDE, LEVEL = 224, 4  # a region of that side, in pixels, is looked at in the level of stride 2 ** LEVEL (equation 1)


class Limits(NamedTuple):
    """``candidates``: of a level, before suppression. ``proposals``: of an image, after it. ``overlap``: by which one
    is suppressed. ``share``: the least that counts. ``side``: the least of a box, in pixels."""

    candidates: int
    proposals: int
    overlap: float
    share: float
    side: float


def unsuppressed(boxes: Tensor, there: Tensor, overlap: float, labels: Tensor | None = None) -> Tensor:
    """Which of boxes [N, M, 4], the best first, overlap no better one that is kept by more than ``overlap``: bool
    [N, M]; only those that are ``there`` bool [N, M] count. ``labels`` int64 [N, M]: only those of its own suppress it.

    Greedy suppression is the only fixed point of "kept where no better one is kept that overlaps it", and ``ROUNDS``
    steps towards it settle all boxes but those behind longer chains of boxes that suppress each other."""
    a, b = boxes[:, :, None], boxes[:, None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0.0)
    both, areas = sides[..., 0] * sides[..., 1], (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    # iou > overlap, without a division
    near = both > overlap * (areas[:, :, None] + areas[:, None] - both)
    if labels is not None:
        near = near & (labels[:, :, None] == labels[:, None])
    order = torch.arange(boxes.shape[1], device=boxes.device)
    beats = (near & (order[:, None] > order)).to(boxes.dtype)
    present = there.to(boxes.dtype)
    kept = present
    for _ in range(ROUNDS):
        kept = present * (1.0 - (beats * kept[:, None]).amax(2))
    return kept > 0.5


def proposed(
    objectness: Sequence[Tensor],
    codes: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: tuple[int, int],
    most: Limits,
) -> tuple[Tensor, Tensor]:
    """Boxes [N, P, 4] in pixels, the best first, and which of them are proposals, bool [N, P]: the others fill up. Of
    logits [N, A] and codes [N, A, 4] of ``anchors`` [A, 4], level by level; ``size`` the image's height and width."""
    boxes, values = [], []
    for logits, coded, around in zip(objectness, codes, anchors, strict=True):
        best, index = logits.topk(min(most.candidates, logits.shape[1]), 1)
        near = around.index_select(0, index.flatten()).reshape(-1, index.shape[1], 4)
        found = clamped(decoded(near, taken(coded, index)), size)
        sides = found[..., 2:] - found[..., :2]
        there = (sides.amin(2) >= most.side) & (best.sigmoid() >= most.share)
        boxes.append(found)
        values.append(torch.where(unsuppressed(found, there, most.overlap), best, NONE))
    every = torch.cat(values, 1)
    best, index = every.topk(min(most.proposals, every.shape[1]), 1)
    return taken(torch.cat(boxes, 1), index), best > NONE / 2


def taken(rows: Tensor, index: Tensor) -> Tensor:
    """Of ``rows`` [N, M, W] those that ``index`` int64 [N, P] numbers: [N, P, W]."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))


def pooled(maps: Sequence[Tensor], boxes: Tensor, size: tuple[int, int], side: int, samples: int) -> Tensor:
    """[N * P, C, side, side]: RoIAlign of boxes [N, P, 4], each in the level that its size is for. ``maps``
    [N, C, h, w] fine to coarse; ``samples`` each way, of a cell of the result."""
    scales = [2.0 ** round(math.log2(map.shape[-2] / size[0])) for map in maps]
    first, last = (round(-math.log2(scale)) for scale in (scales[0], scales[-1]))
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    level = (LEVEL + 0.5 * (areas / SIDE**2).clamp(min=1e-9).log2() + 1e-6).floor().clamp(float(first), float(last))
    level = (level - first).long()
    whole, tops = stacked(maps)
    places = torch.tensor([[scale, top] for scale, top in zip(scales, tops)], device=boxes.device)
    scale, top = places.index_select(0, level.flatten()).reshape(-1, boxes.shape[1], 2).unbind(2)
    shifted = boxes * scale[..., None] + torch.stack([torch.zeros_like(top), top] * 2, -1)
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
    regions = torch.cat([image.to(boxes.dtype), shifted], 2).flatten(0, 1)
    found: Tensor = roi_align(whole.float(), regions, side, 1.0, samples)  # half a pixel matters, also in bf16
    return found


def stacked(maps: Sequence[Tensor]) -> tuple[Tensor, list[float]]:
    """The maps under each other in one, and the row that each begins at. Behind its last row and column a map is
    continued by one cell, as RoIAlign does at the border of a map, and then there is nothing."""
    width, tops, parts, top = max(map.shape[-1] for map in maps) + 2, [], [], 0
    for map in maps:
        continued = F.pad(map, (0, 1, 0, 1), mode="replicate")
        parts.append(F.pad(continued, (0, width - continued.shape[-1], 0, 1)))
        tops.append(float(top))
        top += parts[-1].shape[-2]
    return torch.cat(parts, 2), tops
