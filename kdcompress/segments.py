"""Objects with a mask each, as arrays: how a segmenter's outputs become masks, and how far masks overlap. numpy alone.

A mask is a linear combination of an image's prototypes (YOLACT: Bolya et al., ICCV 2019, arXiv:1904.02689, section
3.2), or has its own cells, which fill its box (Mask R-CNN: He et al., ICCV 2017, arXiv:1703.06870, section 3). Which of
the two is told by the outputs: ``WAYS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kdcompress.boxes import Detections, kept, suppressed

SHARE = 4  # prototypes have 1 / SHARE of the input's height and width
INSIDE = 0.5  # a pixel of which the share is larger is in the mask
LARGEST = 4096  # side of masks, where boxes alone say how large the image is
FAR = 1e9  # pixels: of boxes that are far outside

Arrays = Sequence[np.ndarray]
Size = tuple[int, int]
"""Height and width."""
Side = tuple[slice, slice, np.ndarray]
"""Of a mask along an axis: the pixels that it may have, the cells that they lie between, and what each pixel takes of
each cell, float32 [pixels, cells]."""


@dataclass(frozen=True, eq=False)
class Segments(Detections):
    """Detections whose ``masks`` are bool [D, H, W], each in its box, or a pixel or two beyond. Those made here lie
    column by column in memory, as COCO's codes do."""

    masks: np.ndarray

    def areas(self) -> np.ndarray:
        """Of the masks, in pixels."""
        return self.masks.sum((1, 2), dtype=np.float32)

    def ious(self, others: Detections) -> np.ndarray:
        """Of the masks."""
        assert isinstance(others, Segments)
        return mask_iou(self.masks, others.masks)


def mask_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of masks bool [A, H, W] with masks bool [B, H, W]: float32 [A, B], 0 where both are
    empty."""
    both = shared(a, b)
    union = a.sum((1, 2), dtype=np.float32)[:, None] + b.sum((1, 2), dtype=np.float32) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many pixels masks bool [A, H, W] and masks bool [B, H, W] both have: float32 [A, B]. Where sides differ they
    begin at one corner."""
    height, width = (min(a.shape[axis], b.shape[axis]) for axis in (1, 2))
    both = (masks[:, :height, :width].swapaxes(1, 2) for masks in (a, b))
    one, other = (masks.reshape(len(masks), height * width).astype(np.float32) for masks in both)
    return one @ other.T


class Way(Protocol):
    """How masks are made of the outputs that a segmenter has behind its boxes and scores."""

    outputs: dict[str, tuple[str, str]]  # by their names: the sides of one image's, and what it means

    def drawn(self, boxes: np.ndarray, places: np.ndarray, outputs: Arrays, image: Size | None) -> np.ndarray:
        """The masks, bool [D, H, W], of boxes [D, 4] that are those of ``places`` int64 [D] of one image's outputs.
        ``image``: its size, where it is known."""
        ...


class Combined:
    """Of coefficients [P, C] and an image's prototypes [C, h, w], which say how large the image is."""

    outputs = {
        "coefficients": ("P, C", "how much of each prototype is in the place's mask"),
        "prototypes": ("C, h, w", f"maps at 1 / {SHARE} of the input's height and width"),
    }

    def drawn(self, boxes: np.ndarray, places: np.ndarray, outputs: Arrays, image: Size | None) -> np.ndarray:
        return drawn(boxes, outputs[0][places], outputs[1])


class Pasted:
    """Of shares [P, h, w], each over its place's box. An image of unknown size is as large as the boxes need."""

    outputs = {"masks": ("P, h, w", "0 to 1: how sure each cell of the place's box is of the object")}

    def drawn(self, boxes: np.ndarray, places: np.ndarray, outputs: Arrays, image: Size | None) -> np.ndarray:
        width, height = (int(np.ceil(min(boxes[:, side].max(initial=1), LARGEST))) for side in (2, 3))
        return pasted(boxes, outputs[0][places], image or (height, width))


WAYS: tuple[Way, ...] = (Combined(), Pasted())


def way_of(shapes: Sequence[Sequence[int]]) -> Way | None:
    """That of a segmenter whose outputs to one image have these shapes; None where it is none's."""
    return next(
        (way for way in WAYS if _fit(shapes, ["P, 4", "P, K", *(sides for sides, _ in way.outputs.values())])), None
    )


def _fit(shapes: Sequence[Sequence[int]], wanted: Sequence[str]) -> bool:
    """Whether sides of one name have one length."""
    named, lengths = [each.split(", ") for each in wanted], {"4": 4}
    return list(map(len, shapes)) == list(map(len, named)) and all(
        lengths.setdefault(name, side) == side
        for names, shape in zip(named, shapes, strict=True)
        for name, side in zip(names, shape, strict=True)
    )


def segmented(*outputs: np.ndarray, size: Size | None = None, **suppression: float) -> Segments:
    """What a segmenter's outputs to one image find: boxes [P, 4] and scores [P, K] of its places, and what masks are
    made of (``WAYS``). Boxes are suppressed as a detector's are (``boxes.suppressed``), whose options these are.
    ``size``: of the image, where it is known."""
    options = {**(suppressed.__kwdefaults__ or {}), **suppression}
    (boxes, scores), rest = outputs[:2], outputs[2:]
    way = way_of([each.shape for each in outputs])
    if way is None:
        raise ValueError(f"no outputs of a segmenter: {[list(each.shape) for each in outputs]}")
    found, places = kept(boxes, scores, **options)
    masks = way.drawn(found.boxes, places, rest, size)
    return Segments(found.boxes, found.labels, found.scores, masks)


def drawn(boxes: np.ndarray, coefficients: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """The masks bool [D, SHARE * h, SHARE * w] of boxes [D, 4] in pixels with their coefficients [D, C], of prototypes
    [C, h, w]: the sigmoid of their sum is resized to the input's size, bilinear, and what is above ``INSIDE`` of it is
    in the mask, as far as the pixel's middle is in the box."""
    count, height, width = prototypes.shape
    sums = (coefficients.astype(np.float32) @ prototypes.reshape(count, -1)).reshape(-1, height, width)
    shares = np.clip(sums, -60, 60, out=sums)  # in place: maps of many boxes are large
    np.exp(np.negative(shares, out=shares), out=shares)
    shares += 1
    np.divide(1, shares, out=shares)
    columns, rows = cut(boxes[:, 0], boxes[:, 2], width), cut(boxes[:, 1], boxes[:, 3], height)
    return inside(shares, rows, columns, (SHARE * height, SHARE * width))


def pasted(boxes: np.ndarray, shares: np.ndarray, size: Size) -> np.ndarray:
    """The masks bool [D, *size] of boxes [D, 4] in pixels with their shares [D, h, w]: these, with a cell of zeros
    around them, are resized to the box (bilinear), which grows by as much and then to whole pixels. What is above
    ``INSIDE`` of that is in the mask. As torchvision's ``paste_masks_in_image``."""
    around = np.zeros((len(shares), shares.shape[1] + 2, shares.shape[2] + 2), np.float32)
    around[:, 1:-1, 1:-1] = shares
    cells = np.array(around.shape[:0:-1], np.float32)  # along, and down
    middles, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (cells / (cells - 2))
    starts, ends = (np.clip(each, -FAR, FAR).astype(np.int64) for each in (middles - halves, middles + halves))
    columns, rows = (
        stretched(starts[:, k], ends[:, k], most, around.shape[2 - k]) for k, most in enumerate((size[1], size[0]))
    )
    return inside(around, rows, columns, size)


def inside(shares: np.ndarray, rows: Iterable[Side], columns: Iterable[Side], size: Size) -> np.ndarray:
    """The masks bool [D, *size] of shares float32 [D, h, w]: the pixels that have more than ``INSIDE`` of them. The two
    products add in an order of their own: a pixel whose share is within 2e-7 of ``INSIDE`` may be on either side."""
    masks = np.zeros((len(shares), size[1], size[0]), bool)
    for mask, share, (y, above, down), (x, before, along) in zip(masks, shares, rows, columns, strict=True):
        np.greater(along @ (down @ share[above, before]).T, INSIDE, out=mask[x, y])
    return masks.swapaxes(1, 2)


def cut(starts: np.ndarray, ends: np.ndarray, cells: int) -> Iterator[Side]:
    """Of ``SHARE * cells`` pixels along a side, those whose middles lie in each of some stretches, half-open, [D]; none
    of one that is not finite."""
    most = SHARE * cells
    taken = weights((np.arange(most, dtype=np.float32) + np.float32(0.5)) / SHARE - np.float32(0.5), cells)
    edges = np.stack([starts, ends])
    first, last = np.where(np.isfinite(edges).all(0), np.clip(np.ceil(edges - 0.5), 0, most), 0).astype(np.int64)
    for start, end in zip(first.tolist(), np.maximum(first, last).tolist(), strict=True):
        near = slice(max((start - SHARE // 2) // SHARE, 0), (end + SHARE // 2 - 1) // SHARE + 1)
        yield slice(start, end), near, taken[start:end, near]


def stretched(starts: np.ndarray, ends: np.ndarray, most: int, cells: int) -> Iterator[Side]:
    """Of ``cells`` over the pixels ``starts`` to ``ends``, int64 [D], both among them: those of the pixels that are in
    an image of ``most``."""
    first = np.clip(starts, 0, most)
    counts = np.maximum(np.clip(ends + 1, 0, most) - first, 0)
    stops = np.cumsum(counts)
    scales = (cells / np.maximum(ends - starts + 1, 1)).astype(np.float32)
    from_start = np.arange(counts.sum()) + np.repeat(first - starts - (stops - counts), counts)
    at = (from_start.astype(np.float32) + np.float32(0.5)) * np.repeat(scales, counts) - np.float32(0.5)
    taken = weights(at, cells)
    for start, count, stop in zip(first.tolist(), counts.tolist(), stops.tolist(), strict=True):
        yield slice(start, start + count), slice(cells), taken[stop - count : stop]


def weights(at: np.ndarray, cells: int) -> np.ndarray:
    """What pixels whose middles are ``at`` float32 [n], 0 being the first cell's, take of each cell: linear, float32
    [n, cells]."""
    at = np.clip(at, 0, cells - 1)
    first, pixels = np.floor(at).astype(np.int64), np.arange(len(at))
    share = at - first.astype(np.float32)
    made = np.zeros((len(at), cells), np.float32)
    made[pixels, first] = 1 - share
    made[pixels, np.minimum(first + 1, cells - 1)] += share
    return made
