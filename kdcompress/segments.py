"""Objects with a mask each, as arrays: how a segmenter's outputs become masks, and how far masks overlap. numpy alone.

A mask is a linear combination of an image's prototypes (YOLACT: Bolya et al., ICCV 2019, arXiv:1904.02689, section
3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdcompress.boxes import Detections, kept, suppressed

SHARE = 4  # prototypes have 1 / SHARE of the input's height and width
INSIDE = 0.5  # a pixel of which the share is larger is in the mask


@dataclass(frozen=True, eq=False)
class Segments(Detections):
    """Detections whose ``masks`` are bool [D, H, W], each inside its box."""

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
    """How many pixels masks bool [A, H, W] and masks bool [B, H, W] both have: float32 [A, B]."""
    one, other = (masks.reshape(len(masks), int(np.prod(masks.shape[1:]))).astype(np.float32) for masks in (a, b))
    return one @ other.T


def segmented(
    boxes: np.ndarray,
    scores: np.ndarray,
    coefficients: np.ndarray,
    prototypes: np.ndarray,
    **suppression: float,
) -> Segments:
    """What a segmenter's outputs to one image find: boxes [P, 4], scores [P, K] and coefficients [P, C] of its places,
    and prototypes [C, h, w]. Boxes are suppressed as a detector's are (``boxes.suppressed``), whose options these are.
    """
    options = {**(suppressed.__kwdefaults__ or {}), **suppression}
    found, places = kept(boxes, scores, **options)
    return Segments(found.boxes, found.labels, found.scores, drawn(found.boxes, coefficients[places], prototypes))


def drawn(boxes: np.ndarray, coefficients: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """The masks bool [D, SHARE * h, SHARE * w] of boxes [D, 4] in pixels with their coefficients [D, C], of prototypes
    [C, h, w]: the sigmoid of their sum is resized to the input's size, bilinear, and what is above ``INSIDE`` of it is
    in the mask, as far as the pixel's middle is in the box."""
    count, height, width = prototypes.shape
    sums = (coefficients.astype(np.float32) @ prototypes.reshape(count, -1)).reshape(-1, height, width)
    shares = 1 / (1 + np.exp(-np.clip(sums, -60, 60)))
    masks = np.zeros((len(boxes), SHARE * height, SHARE * width), bool)
    rows, columns = taps(height), taps(width)
    for mask, share, box in zip(masks, shares, boxes, strict=True):
        x1, x2 = pixels(box[0], box[2], mask.shape[1])
        y1, y2 = pixels(box[1], box[3], mask.shape[0])
        up, down, below = (each[y1:y2] for each in rows)
        left, right, behind = (each[x1:x2] for each in columns)
        lines = share[up] * (1 - below)[:, None] + share[down] * below[:, None]
        mask[y1:y2, x1:x2] = lines[:, left] * (1 - behind) + lines[:, right] * behind > INSIDE
    return masks


def taps(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``SHARE * cells`` pixels along a side the two cells that it lies between, and the second's share."""
    at = np.clip((np.arange(SHARE * cells, dtype=np.float32) + np.float32(0.5)) / SHARE - np.float32(0.5), 0, cells - 1)
    first = np.floor(at).astype(np.int64)
    return first, np.minimum(first + 1, cells - 1), at - first.astype(np.float32)


def pixels(start: float, end: float, most: int) -> tuple[int, int]:
    """The pixels, half-open, whose middles lie in a stretch, half-open too; none where it is not finite."""
    if not np.isfinite([start, end]).all():
        return 0, 0
    first, last = (int(np.clip(np.ceil(each - 0.5), 0, most)) for each in (start, end))
    return first, max(first, last)
