"""How far a score, and what a file loses to another, may be off because the test images are a sample: 95 % intervals.

A share of images that are right has Wilson's interval (JASA 22, 1927, p. 209), and the difference of two files' shares
on the same images Tango's (Statistics in Medicine 17, 1998, p. 891), which holds 0 exactly where McNemar's test shows
no difference. Both have a width also where all images, or none, are right. Any other figure is resampled: images are
drawn with replacement, for two files the same ones, and the interval has the middle 95 % of what comes of it, moved to
have its mean at the figure, and widened for few images (Hesterberg, The American Statistician 69, 2015, section 3.3).
It is about other test sets of that size: a figure such as average precision is also higher on few images than on many,
which a difference of two files hardly is. They know what varies from image to image, not from training to training.
numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

Z = NormalDist().inv_cdf(0.975)
RESAMPLES, LEAST_RESAMPLES = 1000, 200  # of up to 10,000 images, and of any number
FEWEST = 10  # images: fewer are not resampled
MOST_IMAGES = 1_000_000  # more than this are no advice
NONE_SHOWN = "no difference shown"


class Judge(Protocol):
    """Of a task: ``kdcompress.task.Task``."""

    def right(self, answers: np.ndarray, truth: Any) -> np.ndarray | None: ...

    def resampled(self, answers: np.ndarray, truth: Any, weights: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Sample:
    """How a file answered a number of images: its score in per cent, and ``right`` bool [images], where that is their
    share, or ``resampled`` float64 [B], the scores of the same resamples for all files; neither of too few images."""

    score: float
    images: int
    right: np.ndarray | None = None
    resampled: np.ndarray | None = None


@dataclass(frozen=True)
class Interval:
    """A figure in per cent or points, of so many images, with its 95 % interval."""

    value: float
    low: float
    high: float
    images: int

    @property
    def verdict(self) -> str:
        """Of points lost: whether they are more than none."""
        return "worse" if self.low > 0 else "better" if self.high < 0 else NONE_SHOWN

    def decides(self, limit: float) -> bool:
        """Whether the true figure lies on the same side of the limit."""
        return not self.low <= limit <= self.high

    def enough(self, limit: float) -> int | None:
        """About how many images would decide, if the figure stayed: an interval is as wide as 1 / sqrt(images). Two
        digits; None where they would be more than ``MOST_IMAGES``."""
        apart = abs(self.value - limit)
        reach = self.value - self.low if limit < self.value else self.high - self.value
        if apart * math.sqrt(MOST_IMAGES / self.images) <= reach:
            return None
        count = self.images * (reach / apart) ** 2
        unit = 10 ** max(math.floor(math.log10(max(count, 1.0))) - 1, 0)
        return max(math.ceil(count / unit) * unit, self.images + 1)


def sample(task: Judge, answers: np.ndarray, truth: Any, score: float) -> Sample:
    """Of a file's answers to a split, as a step keeps them, and their score."""
    images = len(truth)
    right = task.right(answers, truth)
    if right is not None or images < FEWEST:
        return Sample(score, images, right)
    return Sample(score, images, resampled=task.resampled(answers, truth, weights(images)))


def interval(found: Sample) -> Interval | None:
    """Of its score; None of too few images."""
    if found.right is not None and found.images:
        low, high = wilson(int(found.right.sum()), found.images)
    elif found.resampled is not None:
        low, high = middle(found.resampled, found.score, found.images)
    else:
        return None
    return Interval(found.score, min(low, found.score), max(high, found.score), found.images)


def lost(found: Sample, reference: Sample) -> Interval | None:
    """The points that a file loses to another on the same images; below 0 it gains. None of too few images."""
    points = float(round(reference.score - found.score, 9))  # not less by a last bit
    if found.right is not None and reference.right is not None and found.images:
        losses, gains = (
            int((a & ~b).sum()) for a, b in ((reference.right, found.right), (found.right, reference.right))
        )
        low, high = tango(losses, gains, found.images)
    elif found.resampled is not None and reference.resampled is not None:
        low, high = middle(reference.resampled - found.resampled, points, found.images)
    else:
        return None
    return Interval(points, min(low, points), max(high, points), found.images)


def weights(images: int, seed: int = 0) -> np.ndarray:
    """How often each image is in each resample, of as many images drawn with replacement: uint16 [B, images], the same
    for the same number of images. B falls from ``RESAMPLES`` where there are more than 10,000 of them."""
    rng = np.random.default_rng(seed)
    count = max(LEAST_RESAMPLES, min(RESAMPLES, RESAMPLES * 10_000 // images))
    made = np.empty((count, images), np.uint16)
    for row in made:
        row[:] = np.bincount(rng.integers(0, images, images), minlength=images)
    return made


def wilson(right: int, images: int) -> tuple[float, float]:
    """In per cent: the shares that so many right of so many images do not contradict."""
    share, more = right / images, Z**2 / images
    middle = (share + more / 2) / (1 + more)
    half = math.sqrt(share * (1 - share) * more + more**2 / 4) / (1 + more)
    return 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0)


def tango(losses: int, gains: int, images: int) -> tuple[float, float]:
    """In points: the differences of two shares that are not contradicted by so many images that only the one has
    right, and so many that only the other has."""

    def score(points: float) -> float:
        """Of McNemar's kind, falls from 1 to -1 point: where it is Z and -Z the interval ends."""
        linear = (2 * images - losses + gains) * points - losses - gains
        root = math.sqrt(max(linear**2 + 8 * images * gains * points * (1 - points), 0.0))
        other = (root - linear) / (4 * images)  # the likeliest share of gains at this difference
        spread = images * (2 * other + points * (1 - points))
        ahead = losses - gains - images * points
        return ahead / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, ahead) if ahead else 0.0

    ends = []
    for wanted in (Z, -Z):
        low, high = -1.0, 1.0
        for _ in range(60):
            half = (low + high) / 2
            low, high = (half, high) if score(half) > wanted else (low, half)
        ends.append(100 * (low + high) / 2)
    return ends[0], ends[1]


def middle(values: np.ndarray, figure: float, images: int) -> tuple[float, float]:
    """Around a figure: what has 95 % of its resampled values, float64 [B], and a little more of few images, as
    Student's t is wider."""
    free = images - 1
    t = Z + (Z**3 + Z) / (4 * free) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * free**2)
    tail = NormalDist().cdf(-t * math.sqrt(images / free))
    low, high = np.quantile(values - values.mean() + figure, [tail, 1 - tail])
    return float(low), float(high)
