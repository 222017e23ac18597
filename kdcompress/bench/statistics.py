"""What may be said of a sample of latencies: supported percentiles, the tail, spread, paired comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Samples = Sequence[float] | np.ndarray

SEGMENTS = 10  # of a session, for what changes slowly
T_SEGMENTS = 2.262  # Student's t, 97.5 %, SEGMENTS - 1 degrees of freedom
RESOLUTION = 0.01  # the smallest relative difference in latency that is called one

# The smallest n at which MLPerf's early-stopping rule (c = 0.99, d = 0) supports a percentile.
SUPPORT = {50: 11, 90: 64, 95: 130, 99: 662, 99.9: 6636}


def percentile(samples: Samples, p: float) -> float | None:
    """The nearest-rank percentile ``p`` (a key of ``SUPPORT``), in the samples' unit; for 50 the usual median.

    None where there are too few samples to support it.
    """
    n = len(samples)
    if n < SUPPORT[p]:
        return None
    if p == 50:
        return float(np.median(samples))
    return float(np.sort(samples)[math.ceil(round(p / 100 * n, 9)) - 1])


def overlatency_count(n: int, p: float, confidence: float = 0.99) -> int:
    """The largest t such that t of n samples above a bound still show that the ``p`` th percentile lies below it.

    MLPerf's early-stopping rule with tolerance 0: P(Binomial(n, 1 - p/100) <= t) <= 1 - confidence.
    0 where n is too small for even t = 1.
    """
    q = 1 - p / 100
    i = np.arange(min(n, math.ceil(q * n) + 1))  # the answer is below the mean, q n
    steps = np.log((n - i) / (i + 1) * (q / (1 - q)))  # of log P(X = i) to log P(X = i + 1)
    logs = n * math.log1p(-q) + np.concatenate([[0.0], np.cumsum(steps)])
    cdf = np.cumsum(np.exp(logs))
    return max(0, int(np.searchsorted(cdf, 1 - confidence, side="right")) - 1)


def early_stopping_estimate(samples: Samples, p: float = 90, confidence: float = 0.99) -> float | None:
    """MLPerf's pessimistic estimate of a percentile: the maximum left after the t - 1 largest samples are dropped.

    The true percentile is at most this with ``confidence``. None where n supports no t >= 1.
    """
    t = overlatency_count(len(samples), p, confidence)
    return float(np.sort(samples)[len(samples) - t]) if t else None


def variation(samples: Samples) -> float | None:
    """Coefficient of variation: population standard deviation over mean, a fraction (0.1 is 10 %)."""
    mean = float(np.mean(samples)) if len(samples) else 0.0
    return float(np.std(samples)) / mean if mean else None


def bootstrap(samples: Samples, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(median, low, high) of a sample, with the 95 % interval of its median: blocks are resampled, and slow changes
    widen it, as in ``paired_bootstrap``."""
    values = np.asarray(samples, float)
    median, error = float(np.median(values)), T_SEGMENTS * _segment_error(values)
    low, high = np.quantile(_resampled_medians(values, resamples, np.random.default_rng(seed)), [0.025, 0.975])
    return median, min(float(low), median * (1 - error)), max(float(high), median * (1 + error))


def paired_bootstrap(
    samples: Samples, baseline: Samples, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(median, low, high) of the ratio samples[i] / baseline[i], with its 95 % bootstrap interval.

    Runs of n^(1/3) consecutive rounds are resampled together (circular block bootstrap), because noise on a
    shared machine comes in bursts and treating its rounds as independent would give too narrow an interval. What
    changes more slowly, such as a load that comes for half of the session and slows one runtime more than another, is
    seen by no short block: where the medians of ten consecutive segments give a wider interval (batch means, Student's
    t), that one counts.
    """
    ratios = np.asarray(samples, float) / np.asarray(baseline, float)
    ratio, error = float(np.median(ratios)), T_SEGMENTS * _segment_error(ratios)
    low, high = np.quantile(_resampled_medians(ratios, resamples, np.random.default_rng(seed)), [0.025, 0.975])
    return ratio, min(float(low), ratio * (1 - error)), max(float(high), ratio * (1 + error))


def unpaired_bootstrap(
    samples: Samples, others: Samples, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(ratio, low, high) of the median of ``samples`` to that of ``others``, with its 95 % bootstrap interval.

    For samples of two sessions, of which none belongs to one of the other: each is resampled by itself, in blocks as
    ``paired_bootstrap`` does, and slow changes widen the interval as they do there. Sizes may differ. It knows what
    varies within a session only, not from one to the next.
    """
    rng = np.random.default_rng(seed)
    mine, theirs = (np.asarray(values, float) for values in (samples, others))
    resampled = _resampled_medians(mine, resamples, rng) / _resampled_medians(theirs, resamples, rng)
    low, high = np.quantile(resampled, [0.025, 0.975])
    ratio = float(np.median(mine) / np.median(theirs))
    error = T_SEGMENTS * math.hypot(_segment_error(mine), _segment_error(theirs))
    return ratio, min(float(low), ratio * (1 - error)), max(float(high), ratio * (1 + error))


def _segment_error(values: np.ndarray) -> float:
    """Standard error of the median, relative to it, from the medians of ``SEGMENTS`` consecutive parts; 0 where there
    are too few values for parts."""
    if len(values) < SUPPORT[90]:
        return 0.0
    medians = [float(np.median(part)) for part in np.array_split(values, SEGMENTS)]
    return float(np.std(medians, ddof=1)) / math.sqrt(SEGMENTS) / float(np.median(values))


def _resampled_medians(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Medians [resamples] of samples drawn with replacement in blocks of n^(1/3) consecutive ones."""
    n = len(values)
    block = max(1, round(n ** (1 / 3)))
    medians = []
    at_once = max(1, 2_000_000 // n)
    for start in range(0, resamples, at_once):
        starts = rng.integers(0, n, (min(at_once, resamples - start), math.ceil(n / block), 1))
        picked = (starts + np.arange(block)).reshape(len(starts), -1)[:, :n] % n
        medians.append(np.median(values[picked], axis=1))
    return np.concatenate(medians)


def reproducible(low: float, high: float) -> tuple[float, float]:
    """An interval of latency ratios of one session, widened by ``RESOLUTION`` to hold for the next one too.

    Two sessions of one file differ by up to half a per cent for as long as they live, by where their memory
    happens to lie; no number of queries averages that out.
    """
    return low * (1 - RESOLUTION), high * (1 + RESOLUTION)


def verdict(low: float, high: float, margin: float = 0.0) -> str:
    """Of an interval of latency ratios: a winner only where it excludes 1, and all within ``margin`` of 1."""
    return "faster" if high < 1 - margin else "slower" if low > 1 + margin else "no difference shown"
