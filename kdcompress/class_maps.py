"""Class maps: for each place of an image the number of its class. numpy alone: bundles have a copy of this file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

IGNORED = 255  # of a truth: a place that nothing learns from and nobody is judged by
LABELS = 255  # at most: their numbers are 0 to 254


@lru_cache(maxsize=8)
def weights(size: int, target: int) -> np.ndarray:
    """What each of ``target`` places takes of ``size``, float32 [target, size]: linear, by the places' middles, as
    PyTorch's interpolate with align_corners=False."""
    middles = np.maximum((np.arange(target) + 0.5) * (size / target) - 0.5, 0).astype(np.float32)
    near = np.minimum(middles.astype(np.int64), size - 1)
    share = middles - near
    made = np.zeros((target, size), np.float32)
    rows = np.arange(target)
    made[rows, near] = 1 - share
    made[rows, np.minimum(near + 1, size - 1)] += share
    return made


def upsampled(logits: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Logits [..., h, w] at ``size`` (height, width), bilinear: float32 [..., *size]."""
    height, width = logits.shape[-2:]
    if (height, width) == tuple(size):
        return logits
    return weights(height, size[0]) @ logits.astype(np.float32) @ weights(width, size[1]).T


def classes_of(logits: np.ndarray, size: Sequence[int] | None = None) -> np.ndarray:
    """The class of each place: of logits [N, K, h, w], upsampled first where ``size`` is given; of class numbers
    [N, H, W] as they are, or the nearest. uint8 [N, H, W]."""
    size = tuple(size or logits.shape[-2:])
    if logits.ndim == 3:
        rows, columns = (nearest(here, there) for here, there in zip(logits.shape[-2:], size))
        return logits[:, rows[:, None], columns].round().astype(np.uint8)
    made = np.empty((len(logits), *size), np.uint8)
    for row, each in zip(made, logits):  # one at a time: all logits of a split at its size would not fit
        row[:] = each.argmax(0) if each.shape[1:] == size else largest(each, size)
    return made


def largest(logits: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Which of the maps [K, h, w] is the largest at each place of ``size``, the first of those that are alike, uint8
    [*size]. One is upsampled after the other: all of them would leave a processor's cache."""
    best, made = np.full(size, -np.inf, np.float32), np.zeros(size, np.uint8)
    for number, each in enumerate(logits):
        values = upsampled(each, size)
        np.copyto(made, np.uint8(number), where=values > best)
        np.maximum(best, values, out=best)
    return made


def nearest(size: int, target: int) -> np.ndarray:
    """Which of ``size`` places lies at the middle of each of ``target``, int64 [target]."""
    return np.minimum(((np.arange(target) + 0.5) * (size / target)).astype(np.int64), size - 1)


def counted(answers: np.ndarray, truth: np.ndarray, labels: int) -> np.ndarray:
    """How many places of each class have each answer, int64 [labels, labels] (true, answered); ignored ones do not
    count. Both uint8 [N, H, W]."""
    table = np.zeros(labels**2, np.int64)
    for mine, real in zip(answers, truth):
        judged = real != IGNORED
        table += np.bincount(real[judged].astype(np.int64) * labels + mine[judged], minlength=labels**2)
    return table.reshape(labels, labels)


def overlaps(table: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, 0..1, of a table of ``counted``; NaN where a class is neither there nor
    answered."""
    both = np.diagonal(table).astype(np.float64)
    either = table.sum(0) + table.sum(1) - both
    return np.divide(both, either, out=np.full(len(table), np.nan), where=either > 0)


def near(maps: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Whether a place of ``maps`` or one of the eight around it has the class of ``classes``; all [N, H, W]."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), "edge")
    height, width = maps.shape[1:]
    found = np.zeros(maps.shape, bool)
    for down in range(3):
        for along in range(3):
            found |= padded[:, down : down + height, along : along + width] == classes
    return found


def runs(classes: np.ndarray) -> list[list[int]]:
    """A class map row by row, as [class, how many places follow each other], ...: for JSON."""
    flat = np.asarray(classes).reshape(-1)
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, len(flat)])
    return [[int(flat[start]), int(length)] for start, length in zip(starts, lengths)]


def unrolled(pairs: Sequence[Sequence[int]]) -> np.ndarray:
    """What ``runs`` was made of, uint8 [places]."""
    return np.concatenate([np.full(length, number, np.uint8) for number, length in pairs])
