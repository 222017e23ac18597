"""The class of each pixel: uint8 [N, H, W], of which ``IGNORED`` is no class."""

from __future__ import annotations

import numpy as np

from kdcompress.class_maps import IGNORED, LABELS


def are_maps(truth: np.ndarray) -> bool:
    """Whether a truth is class maps, not objects."""
    return truth.ndim == 3 and truth.dtype == np.uint8


def holds(truth: np.ndarray, classes: int | None = None) -> np.ndarray:
    """Which classes an image has a pixel of, uint8 [N, K]; K is ``classes``, or one more than the largest number."""
    found = np.array([np.bincount(each.reshape(-1), minlength=256) > 0 for each in truth], np.uint8).reshape(-1, 256)
    there = np.flatnonzero(found[:, :IGNORED].any(0))
    return found[:, : classes or 1 + int(there.max(initial=0))]


def counts(truth: np.ndarray, classes: int) -> np.ndarray:
    """How many images have a pixel of each class, int64 [classes]."""
    return holds(truth, classes).sum(0, dtype=np.int64)


def check(truth: np.ndarray, classes: int, height: int, width: int) -> None:
    """Raises ValueError where ``truth`` is not as this module says, for images of ``height`` x ``width`` pixels."""
    if not are_maps(truth) or truth.shape[1:] != (height, width):
        raise ValueError(f"class maps are uint8 [N, {height}, {width}], got {truth.dtype} {list(truth.shape)}")
    if not 0 < classes <= LABELS:
        raise ValueError(f"a class map tells 1 to {LABELS} classes apart, got {classes}")
    if (wrong := truth[(truth >= classes) & (truth != IGNORED)]).size:
        raise ValueError(f"classes are 0 to {classes - 1}, and {IGNORED} for none, got {np.unique(wrong)}")
