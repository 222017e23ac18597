"""The objects in images, as boxes: float32 [N, M, 6], for each image M rows of which some may be padding.

A row is x1, y1, x2, y2 in pixels of the kept image, half-open: the pixels x1 <= x < x2 and y1 <= y < y2; then the
class's number, and the kind: ``NOTHING`` (padding: the row is all zeros, and stands behind the others), ``OBJECT``, or
``CROWD``, a place that training and scoring ignore. M is the same in all splits of a source, and at least 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH = 6
BOX, CLASS, KIND = slice(0, 4), 4, 5  # columns
NOTHING, OBJECT, CROWD = 0, 1, 2  # kinds


def rows(boxes: np.ndarray, classes: np.ndarray | int, kinds: np.ndarray | int = OBJECT) -> np.ndarray:
    """Boxes [m, 4] with their classes and kinds, [m] or one for all, as float32 [m, 6]."""
    made = np.empty((len(boxes), WIDTH), np.float32)
    made[:, BOX], made[:, CLASS], made[:, KIND] = boxes, classes, kinds
    return made


def packed(each: Sequence[np.ndarray], least: int = 1) -> np.ndarray:
    """The objects of each image, [m, 6], as float32 [N, M, 6]: M is the most that one has, and at least ``least``."""
    most = max([least, 1, *map(len, each)])
    made = np.zeros((len(each), most, WIDTH), np.float32)
    for row, objects in zip(made, each, strict=True):
        row[: len(objects)] = objects
    return made


def objects_of(row: np.ndarray) -> np.ndarray:
    """The rows of an image, [M, 6], that are no padding: [m, 6]."""
    return row[row[:, KIND] != NOTHING]


def areas(boxes: np.ndarray) -> np.ndarray:
    """In square pixels, of [..., 4 or more]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def counts(truth: np.ndarray, classes: int) -> np.ndarray:
    """How many objects of each class there are, int64 [classes]; crowds do not count."""
    found = truth[truth[..., KIND] == OBJECT]
    return np.bincount(found[:, CLASS].astype(np.int64), minlength=classes)


def holds(truth: np.ndarray) -> np.ndarray:
    """Which classes an image has an object of, uint8 [N, K]; K is one more than the largest number of a class."""
    image, row = np.nonzero(truth[..., KIND] == OBJECT)
    numbers = truth[image, row, CLASS].astype(np.int64)
    found = np.zeros((len(truth), 1 + int(numbers.max(initial=0))), np.uint8)
    found[image, numbers] = 1
    return found


def check(truth: np.ndarray, classes: int, height: int, width: int) -> None:
    """Raises ValueError where ``truth`` is not as this module says, for images of ``height`` x ``width`` pixels."""
    if truth.dtype != np.float32 or truth.ndim != 3 or truth.shape[2] != WIDTH or not truth.shape[1]:
        raise ValueError(f"objects are float32 [N, M, {WIDTH}], got {truth.dtype} {list(truth.shape)}")
    kinds, there = truth[..., KIND], truth[..., KIND] != NOTHING
    if not np.isin(kinds, (NOTHING, OBJECT, CROWD)).all():
        raise ValueError(f"kinds are {NOTHING}, {OBJECT} and {CROWD}, got {np.unique(kinds)}")
    if truth[~there].any() or (there[:, 1:] & ~there[:, :-1]).any():
        raise ValueError("padding is zeros, and stands behind the objects")
    x1, y1, x2, y2, number, _ = truth[there].T
    if not ((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height)).all():
        raise ValueError(f"a box is empty, or not inside {height} x {width} pixels")
    if not ((number >= 0) & (number < classes) & (number == np.floor(number))).all():
        raise ValueError(f"classes are 0 to {classes - 1}")
