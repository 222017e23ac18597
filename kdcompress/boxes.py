"""Boxes as arrays: their overlap, and the suppression of those that say the same. numpy alone.

A box is (x1, y1, x2, y2) in pixels, half-open: it holds the pixels x1 <= x < x2, y1 <= y < y2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 128  # candidates that are looked at together


@dataclass(frozen=True, eq=False)
class Detections:
    """What is found in one image, by descending score: ``boxes`` float32 [D, 4], ``labels`` int64 [D], ``scores``
    float32 [D]."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def areas(self) -> np.ndarray:
        """Float [D], in square pixels."""
        return area(self.boxes)

    def ious(self, others: Detections) -> np.ndarray:
        """How far they and others are the same, as intersection over union, 0 to 1: float [D, E]."""
        return iou(self.boxes, others.boxes)


def area(boxes: np.ndarray) -> np.ndarray:
    """Of boxes [..., 4], in square pixels; 0 where an edge lies beyond the other."""
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [A, 4] with boxes [B, 4]: [A, B], 0 to 1, of their float type. 0 where both are
    empty, and where either is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
        height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
        both = np.maximum(width, 0) * np.maximum(height, 0)
        union = area(a)[:, None] + area(b) - both
        return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def repeated(boxes: np.ndarray, labels: np.ndarray, a: np.ndarray, b: np.ndarray, limit: float) -> np.ndarray:
    """Whether candidates ``a`` and ``b``, of the same label, overlap by more than ``limit``: bool [A, B]."""
    return (iou(boxes[a], boxes[b]) > limit) & (labels[a][:, None] == labels[b])


def suppressed(
    boxes: np.ndarray, scores: np.ndarray, *, score: float = 0.05, iou: float = 0.6, before: int = 1000, most: int = 100
) -> Detections:
    """What a detector's outputs to one image find: boxes [P, 4] and scores [P, K] of its places. See ``kept``."""
    return kept(boxes, scores, score=score, iou=iou, before=before, most=most)[0]


def kept(
    boxes: np.ndarray, scores: np.ndarray, *, score: float, iou: float, before: int, most: int
) -> tuple[Detections, np.ndarray]:
    """What boxes [P, 4] and scores [P, K] of an image's places find, and at which place each, int64 [D].

    A candidate is a place with a label that scores above ``score``. Of the ``before`` best of them, from the best on,
    one is kept unless it overlaps one of its label that is kept by more than ``iou``, until ``most`` are kept. Equal
    scores go by place, then label. Boxes that are not finite are left out.
    """
    finite = np.isfinite(boxes).all(1)
    pairs = np.flatnonzero((scores > score) & finite[:, None])
    values = scores.reshape(-1)[pairs].astype(np.float32)
    if len(pairs) > before:
        best = values >= np.partition(values, -before)[-before]
        pairs, values = pairs[best], values[best]
    order = np.argsort(-values, kind="stable")[:before]
    places, labels = np.divmod(pairs[order], scores.shape[1])
    candidates = boxes[places].astype(np.float32)
    alone = np.zeros(0, np.int64)
    for start in range(0, len(order), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(order)))
        block = block[~repeated(candidates, labels, alone, block, iou).any(0)]
        differs = ~repeated(candidates, labels, block, block, iou)
        np.fill_diagonal(differs, True)
        alive = np.ones(len(block), bool)
        for i in range(len(block)):
            if alive[i]:
                alive &= differs[i]
        alone = np.concatenate([alone, block[alive]])
        if len(alone) >= most:
            break
    alone = alone[:most]
    found = Detections(candidates[alone], labels[alone].astype(np.int64), values[order][alone])
    return found, places[alone]
