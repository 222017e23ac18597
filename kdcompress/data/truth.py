"""What is right for each image of a split, an array with a row an image: class numbers, int64 [N], or sets of labels,
uint8 [N, K] of 0 and 1."""

from __future__ import annotations

import numpy as np

from kdcompress.errors import UsageError


def of_each(truth: np.ndarray, classes: int) -> np.ndarray:
    """How many images have each label, int64 [classes]."""
    return np.bincount(truth, minlength=classes) if truth.ndim == 1 else truth.sum(0, dtype=np.int64)


def needs_each(truth: np.ndarray) -> bool:
    """Whether a label that no image has means that something is wrong: of sets, rare labels are usual."""
    return truth.ndim == 1


def strata(truth: np.ndarray) -> np.ndarray:
    """A number for each image, int64 [N], by which splits are stratified: its class, or of a set of labels the one
    that the fewest images have (the number of labels where it has none)."""
    if truth.ndim == 1:
        return truth
    rarest_first = np.argsort(of_each(truth, truth.shape[1]), kind="stable")
    places = truth[:, rarest_first].astype(bool)
    first = rarest_first[places.argmax(1)]
    return np.where(places.any(1), first, truth.shape[1])


def encoded(truth: np.ndarray) -> bytes:
    """As it is hashed, the same on every machine."""
    return truth.astype("<i8" if truth.ndim == 1 else "u1").tobytes()


def replaced(truth: np.ndarray, away: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers moved on by ``away`` int64 [N], around the ``classes``. Raises UsageError for sets of labels."""
    if truth.ndim > 1:
        raise UsageError("Label noise needs images with one label each.", where="data.label_noise", allowed=0)
    return (truth + away) % classes
