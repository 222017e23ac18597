"""The share of the second of two classes above which it is the answer, chosen on images whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdcompress.artifact import margin_at
from kdcompress.tasks._figures import Counts

HALF = 0.5  # what the largest of two logits is
LEAST, DIGITS = 0.001, 6  # of a share: float32 shares closer to 0 or 1 tell little apart


def best(margins: np.ndarray, truth: np.ndarray, figure: Callable[[Counts], np.ndarray]) -> tuple[float, float, float]:
    """(threshold, the figure there, the figure at a half) of ``margins`` [N], second logit less first, of images of the
    classes ``truth`` int [N]. Tried are the middles between neighbouring images; of equally good ones that nearest to a
    half is taken, so that it stays there where none is better."""
    order = np.argsort(margins, kind="stable")
    values, ones = margins[order].astype(np.float64), truth[order] == 1
    middles = (values[1:] + values[:-1])[values[1:] > values[:-1]] / 2
    shares = 1 / (1 + np.exp(-np.clip(middles, -50, 50)))
    tried = np.unique(np.append(np.clip(shares, LEAST, 1 - LEAST).round(DIGITS), HALF))
    # how many are answered with the first class
    below = np.searchsorted(values, [margin_at(share) for share in tried.tolist()], side="right")
    negatives = np.append(0, np.cumsum(~ones))[below]
    positives = np.append(0, np.cumsum(ones))[below]
    total = np.array([(~ones).sum(), ones.sum()], np.float64)
    right = np.stack([negatives, total[1] - positives], 1).astype(np.float64)
    said = np.stack([below, len(truth) - below], 1).astype(np.float64)
    reached = figure(Counts(right, said, np.broadcast_to(total, right.shape)))
    good = tried[reached >= reached.max() - 1e-12]
    chosen = float(good[np.abs(good - HALF).argmin()])
    return chosen, float(reached.max()), float(reached[tried == HALF][0])
