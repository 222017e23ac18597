"""What classifiers are judged by, of decided classes or of scores; each also over images drawn again and again.

``right``, ``said`` and ``there`` are numbers of images of each class, [..., K]: answered rightly, given that answer,
and of that class. Figures are 0..1; a class that is nowhere is left out of every mean. numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BLOCK = 500_000  # weights at a time: what stays in a cache is faster
CHANCE = 0.5  # the area of scores that say nothing


class Counts(NamedTuple):
    """float64 [K], or [B, K] of B drawings."""

    right: np.ndarray
    said: np.ndarray
    there: np.ndarray


def counts(decided: np.ndarray, truth: np.ndarray, classes: int, weights: np.ndarray | None = None) -> Counts:
    """Of class numbers int [N]; ``weights`` int [B, N]: how often each image is there."""
    hits = np.where(decided == truth, truth, classes)

    def counted(numbers: np.ndarray) -> np.ndarray:
        if weights is None:
            return np.bincount(numbers, minlength=classes)[:classes].astype(np.float64)
        return np.stack([np.bincount(numbers, row, classes + 1)[:classes] for row in weights])

    return Counts(counted(hits), counted(decided), counted(truth))


def accuracy(found: Counts) -> np.ndarray:
    return np.asarray(found.right.sum(-1) / np.maximum(found.there.sum(-1), 1))


def balanced_accuracy(found: Counts) -> np.ndarray:
    """The mean recall of the classes that are there (Brodersen et al., ICPR 2010)."""
    return mean_share(found.right, found.there)


def macro_f1(found: Counts) -> np.ndarray:
    """The mean F1 of the classes that are there or are answered; of two classes it is the mean of both, too."""
    return mean_share(2 * found.right, found.said + found.there)


def mean_share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The mean, over the last axis, of part / whole where there is a whole."""
    share = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return np.asarray(share.sum(-1) / np.maximum((whole > 0).sum(-1), 1))


OF_COUNTS: dict[str, Callable[[Counts], np.ndarray]] = {
    "accuracy": accuracy,
    "balanced-accuracy": balanced_accuracy,
    "f1": macro_f1,
}


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of each class's share p: float64 [N, K] of logits [N, K], as p itself would rank the images, but
    with no two of them rounded to 1."""
    if logits.shape[1] < 2:
        return logits.astype(np.float64)
    logits = logits.astype(np.float64)
    rows, top = np.arange(len(logits)), logits.argmax(1)
    largest = logits[rows, top]
    powers = np.exp(logits - largest[:, None])
    powers[rows, top] = 0.0
    rest = 1.0 + powers.sum(1, keepdims=True) - powers  # of all but one's own, where that isn't the largest
    others = np.log(np.maximum(rest, 1.0)) + largest[:, None]
    without = logits.copy()
    without[rows, top] = -np.inf
    second = without.max(1)
    others[rows, top] = second + np.log(np.exp(without - second[:, None]).sum(1))
    return logits - others


def areas(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under the ROC curve, float64 [B]: how often an image that is ``positive``, bool [N], scores more than
    one that is not, where ties count half (Hanley and McNeil, Radiology 143, 1982). ``weights`` int [B, N]: how often
    each image is there. NaN where all of them, or none, are positive."""
    order = np.argsort(scores, kind="stable")
    values, has = scores[order], positive[order]
    below, up_to = (np.searchsorted(values, values[has], side) for side in ("left", "right"))
    found = np.full(len(weights), np.nan)
    for rows in np.array_split(np.arange(len(weights)), max(1, weights.size // BLOCK)):
        often = weights[rows][:, order].astype(np.float64)
        mine, beaten = often[:, has], np.zeros((len(rows), len(scores) + 1))
        np.cumsum(np.where(has, 0.0, often), 1, out=beaten[:, 1:])
        pairs = mine.sum(1) * beaten[:, -1]
        won = (mine * (beaten[:, below] + beaten[:, up_to])).sum(1) / 2
        np.divide(won, pairs, out=won, where=pairs > 0)
        found[rows] = np.where(pairs > 0, won, np.nan)
    return found


def area(odds: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The areas of ``odds`` [N, K], of each class against the rest, averaged over the classes that some images have and
    some have not: float64 [B], of two classes that of one. ``CHANCE`` where there is none such."""
    weights = np.ones((1, len(truth)), np.uint16) if weights is None else weights
    classes = range(odds.shape[1]) if odds.shape[1] != 2 else (1,)
    each = np.stack([areas(odds[:, k], truth == k, weights) for k in classes])
    known = ~np.isnan(each)
    return np.where(known.any(0), np.where(known, each, 0.0).sum(0) / np.maximum(known.sum(0), 1), CHANCE)
