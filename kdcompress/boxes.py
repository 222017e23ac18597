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


def repeated(a: np.ndarray, b: np.ndarray, limit: float) -> np.ndarray:
    """Whether boxes of the same label overlap by more than ``limit``, as ``iou`` has it: bool [A, B]. Both float32
    [6, ...]: the edges, area and label of each."""
    left, top, right, bottom, areas, labels = a[:, :, None]
    width, height = np.minimum(right, b[2]), np.minimum(bottom, b[3])
    width -= np.maximum(left, b[0])
    height -= np.maximum(top, b[1])
    both = np.maximum(width, 0, out=width)
    both *= np.maximum(height, 0, out=height)
    union = np.add(areas, b[4], out=height)
    union -= both
    both /= union  # no number where both are empty
    return (both > limit) & (labels == b[5])


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
    pairs = np.flatnonzero(scores > score)
    if not np.isfinite(boxes).all():
        pairs = pairs[np.isfinite(boxes).all(1)[pairs // scores.shape[1]]]
    values = scores.reshape(-1)[pairs].astype(np.float32)
    if len(pairs) > before:
        best = values >= np.partition(values, -before)[-before]
        pairs, values = pairs[best], values[best]
    order = np.argsort(-values, kind="stable")[:before]
    places, labels = np.divmod(pairs[order], scores.shape[1])
    candidates = boxes[places].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        alone = alone_in(np.stack([*candidates.T, area(candidates), labels.astype(np.float32)]), iou, most)
    found = Detections(candidates[alone], labels[alone].astype(np.int64), values[order][alone])
    return found, places[alone]


def alone_in(candidates: np.ndarray, limit: float, most: int) -> np.ndarray:
    """Which of the candidates, float32 [6, n] as those of ``repeated``, overlap none before them that does so: the
    first ``most`` of these, int64 [D]."""
    count = candidates.shape[1]
    alone = np.zeros(0, np.int64)
    for start in range(0, count, BLOCK):
        block = np.arange(start, min(start + BLOCK, count))
        if len(alone):
            block = block[~repeated(candidates[:, alone], candidates[:, block], limit).any(0)]
        repeats = repeated(candidates[:, block], candidates[:, block], limit)
        np.fill_diagonal(repeats, False)
        alive = np.ones(len(block), bool)
        for i in range(len(block)):
            if alive[i]:
                np.greater(alive, repeats[i], out=alive)
        alone = np.concatenate([alone, block[alive]])
        if len(alone) >= most:
            break
    return alone[:most]
