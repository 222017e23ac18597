"""Whether a classifier is as often right as it is sure: reliability, and the expected calibration error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 15


class Reliability(NamedTuple):
    """Of the images in each of ``BINS`` bins of equal width of the largest share: how many, the sum of their largest
    shares, how many of those are right, and the one less the other."""

    images: np.ndarray
    sure: np.ndarray
    right: np.ndarray
    gap: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error in per cent: how far confidence and accuracy lie apart, averaged over the images
        (Guo et al., ICML 2017, equation 3)."""
        return 100.0 * float(np.abs(self.gap).sum()) / int(self.images.sum())


def reliability(logits: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
    """``logits`` [N, K], ``truth`` int64 [N]. The largest share is that of the softmax."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares = shifted / shifted.sum(1, keepdims=True)
    confidence, chosen = shares.max(1), shares.argmax(1)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64), 1, bins) - 1
    weights = None, confidence, chosen == truth, (chosen == truth) - confidence
    return Reliability(*(np.bincount(place, each, bins) for each in weights))
