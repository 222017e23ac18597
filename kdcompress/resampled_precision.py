"""Average precision of resampled images: detections are matched once, as COCO does it, and then only weighed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdcompress.average_precision import judged
from kdcompress.boxes import Detections
from kdcompress.data.objects import CLASS, CROWD, KIND, NOTHING, OBJECT
from kdcompress.data.truth import Truth

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
BLOCK = 500_000  # values at a time: what stays in a cache is faster


@dataclass(frozen=True, eq=False)
class Hits:
    """Of one label, by descending score: the ``image`` of each detection, int64 [D], at which of the ``OVERLAPS`` it is
    right, bool [10, D], and at which it counts neither way; and how many ``objects`` each image has, int64 [N]."""

    image: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


def hits(found: Sequence[Detections], truth: Truth, masks: Sequence[Sequence[bytes]] | None = None) -> list[Hits]:
    """Of each label that an object or a detection has, and all before them; arguments as those of
    ``average_precision``."""
    objects = np.asarray(truth)
    labels = 1 + int(max(each.max(initial=0) for each in (objects[..., CLASS], *(each.labels for each in found))))
    overlaps = judged(found, truth, labels, masks).ious
    parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(labels)]
    for i, (each, row) in enumerate(zip(found, objects, strict=True)):
        for label in np.unique(each.labels).tolist():
            mine = np.flatnonzero(each.labels == label)
            mine = mine[np.argsort(-each.scores[mine].astype(np.float64), kind="stable")][:100]
            crowds = row[(row[:, KIND] != NOTHING) & (row[:, CLASS] == label), KIND] == CROWD
            right, ignored = matched(np.asarray(overlaps[i, label]).reshape(len(mine), -1), crowds)
            x1, y1, x2, y2 = each.boxes[mine].astype(np.float64).T
            if masks is None:
                ignored |= ~right & ((x2 - x1) * (y2 - y1) < 0)  # COCO: of no size that counts
            parts[label].append((np.full(len(mine), i), each.scores[mine].astype(np.float64), right, ignored))
    made = []
    for label, several in enumerate(parts):
        none = np.zeros((len(OVERLAPS), 0), bool)
        several = [(np.zeros(0, np.int64), np.zeros(0), none, none), *several]
        image, scores, right, ignored = (np.concatenate(each, -1) for each in zip(*several, strict=True))
        order = np.argsort(-scores, kind="stable")
        counts = ((objects[..., KIND] == OBJECT) & (objects[..., CLASS] == label)).sum(1)
        made.append(Hits(image[order], right[:, order], ignored[:, order], counts))
    return made


def matched(overlaps: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """Of an image's detections of a label, by descending score, whose ``overlaps`` float64 [D, G] with its objects are
    given: at which of the ``OVERLAPS`` each is right, and at which it lies on one of the ``crowds`` bool [G]; bool
    [2, 10, D]. From the best on, each takes the object that it overlaps most of those that are left; a crowd is never
    taken, and counts only where no object is left that would do."""
    made = np.zeros((2, len(OVERLAPS), len(overlaps)), bool)
    free = np.ones((len(OVERLAPS), overlaps.shape[1]), bool) & ~crowds
    for d in np.flatnonzero((overlaps >= OVERLAPS[0]).any(1)):
        mine = overlaps[d]
        for t in range(np.searchsorted(OVERLAPS, mine.max(), "right")):
            left = np.where(free[t], mine, -1.0)
            best = len(left) - 1 - int(left[::-1].argmax())  # of those that are alike the last, as COCO does it
            if left[best] >= OVERLAPS[t]:
                made[0, t, d], free[t, best] = True, False
            else:
                made[1, t, d] = bool((mine[crowds] >= OVERLAPS[t]).any())
    return made


def precision(found: Sequence[Hits], weights: np.ndarray) -> np.ndarray:
    """AP in per cent, float64 [B], where each image is there as often as ``weights`` int [B, N] say: over the overlaps,
    and the labels that have objects then. 0 where none has."""
    total, cells = np.zeros(len(weights)), np.zeros(len(weights))
    for each in found:
        objects = weights.astype(np.float64) @ each.objects
        there = objects > 0
        total[there] += np.concatenate(list(_precisions(each, weights[there], objects[there])))
        cells += there
    return 100 * np.divide(total, cells, out=total, where=cells > 0)


def _precisions(found: Hits, weights: np.ndarray, objects: np.ndarray) -> Iterator[np.ndarray]:
    """Of a label, 0 to 1, float64 [B] in parts: the mean over the overlaps."""
    yield np.zeros(0)
    count = 1 + int(np.flatnonzero(found.right.any(0)).max(initial=0))  # what is behind the last that is right is idle
    image, each = found.image[:count], (found.right[:, :count], found.ignored[:, :count])
    step = max(1, BLOCK // count)
    for start in range(0, len(weights), step):
        often = weights[start : start + step, image].astype(np.float64)
        there = objects[start : start + step, None]
        every, total = np.cumsum(often, 1), np.zeros(len(often))
        for right, ignored in zip(*each, strict=True):
            places = np.flatnonzero(right)
            if not len(places):
                continue
            so_far = np.cumsum(often[:, places], 1)
            judged = np.cumsum(often * ~ignored, 1) if ignored.any() else every
            share = so_far / np.maximum(judged[:, places], 1)
            best = np.maximum.accumulate(share[:, ::-1], 1)[:, ::-1]  # at that recall or above it
            reached = _reached(so_far / there)
            total += best[:, 0] * reached[:, 0] + (best[:, 1:] * np.diff(reached)).sum(1)
        yield total / (len(OVERLAPS) * len(RECALLS))


def _reached(recall: np.ndarray) -> np.ndarray:
    """How many of the ``RECALLS`` are not above it."""
    whole = (100 * recall + 1e-9).astype(np.int64)
    return whole + (RECALLS[whole] <= recall)
