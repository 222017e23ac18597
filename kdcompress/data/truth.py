"""What is right for each image of a split, an array with a row an image: class numbers, int64 [N]; sets of labels,
uint8 [N, K] of 0 and 1; objects, float32 [N, M, 6] (objects.py); those with masks (outlined.py), which are indexed as
an array of objects is; or class maps, uint8 [N, H, W] (maps.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcompress.data import maps, objects, outlined
from kdcompress.data.outlined import Outlined
from kdcompress.errors import UsageError

Truth = Any  # an array, or Outlined
DTYPES = {1: "<i8", 2: "u1", 3: "<f4"}  # by the number of dimensions, as hashed; maps are bytes


def of_each(truth: Truth, classes: int) -> np.ndarray:
    """How many images have each label, int64 [classes]; of objects, how many have each class."""
    if maps.are_maps(truth):
        return maps.counts(truth, classes)
    if truth.ndim == 3:
        return objects.counts(np.asarray(truth), classes)
    return np.bincount(truth, minlength=classes) if truth.ndim == 1 else truth.sum(0, dtype=np.int64)


def needs_each(truth: Truth) -> bool:
    """Whether a label that no image has means that something is wrong: of sets and objects, rare labels are usual."""
    return truth.ndim == 1


def strata(truth: Truth) -> np.ndarray:
    """A number for each image, int64 [N], by which splits are stratified: its class, or of a set of labels, or of the
    classes of its objects or pixels, the one that the fewest images have (a number of its own where it has none)."""
    if truth.ndim == 1:
        return truth
    held = maps.holds if maps.are_maps(truth) else objects.holds
    labels = held(np.asarray(truth)) if truth.ndim == 3 else truth
    rarest_first = np.argsort(of_each(labels, labels.shape[1]), kind="stable")
    places = labels[:, rarest_first].astype(bool)
    first = rarest_first[places.argmax(1)]
    return np.where(places.any(1), first, labels.shape[1])


def encoded(truth: Truth) -> bytes:
    """As it is hashed, the same on every machine."""
    dtype = "u1" if maps.are_maps(truth) else DTYPES[truth.ndim]
    own = np.asarray(truth).astype(dtype, copy=False).tobytes()
    return own + truth.encoded() if isinstance(truth, Outlined) else own


def replaced(truth: Truth, away: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers moved on by ``away`` int64 [N], around the ``classes``. Raises UsageError for sets of labels,
    for objects and for class maps."""
    if truth.ndim > 1:
        raise UsageError("Label noise needs images with one label each.", where="data.label_noise", allowed=0)
    return (truth + away) % classes


def joined(parts: Sequence[Truth]) -> Truth:
    """The truths of several parts of a source as one."""
    return outlined.joined(parts) if isinstance(parts[0], Outlined) else np.concatenate(parts)
