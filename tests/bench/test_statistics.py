import math

import numpy as np
import pytest

from kdcompress.bench import statistics


def tail(n: int, t: int, q: float) -> float:
    """P(Binomial(n, q) <= t), by the sum."""
    return sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(t + 1))


@pytest.mark.parametrize("p, least", statistics.SUPPORT.items())
def test_support_is_where_mlperfs_rule_first_allows_one_sample_above(p, least):
    assert tail(least, 1, 1 - p / 100) <= 0.01 < tail(least - 1, 1, 1 - p / 100)
    assert statistics.overlatency_count(least, p) == 1
    assert statistics.overlatency_count(least - 1, p) == 0


@pytest.mark.parametrize("n", [1, 2, 11, 63, 64, 128, 500, 1000])
@pytest.mark.parametrize("p", [50, 90, 99])
def test_overlatency_count_is_the_largest_that_the_binomial_allows(n, p):
    t = statistics.overlatency_count(n, p)
    q = 1 - p / 100
    assert tail(n, t + 1, q) > 0.01
    assert t == 0 or tail(n, t, q) <= 0.01


def test_overlatency_count_of_a_large_sample_follows_the_normal_approximation():
    n, q = 1_000_000, 0.1
    expected = n * q - 2.3263 * math.sqrt(n * q * (1 - q))
    assert statistics.overlatency_count(n, 90) == pytest.approx(expected, abs=5)


def test_early_stopping_estimate_drops_t_minus_1_samples():
    samples = np.arange(128, 0, -1)  # t = 5 of 128: the four largest go, 124 is left
    assert statistics.overlatency_count(128, 90) == 5
    assert statistics.early_stopping_estimate(samples, 90) == 124
    assert statistics.early_stopping_estimate(samples[:63], 90) is None
    assert statistics.early_stopping_estimate(samples[:64], 90) == 128


def test_early_stopping_estimate_covers_the_true_percentile():
    rng = np.random.default_rng(1)
    estimates = [statistics.early_stopping_estimate(rng.exponential(size=200), 90) for _ in range(1000)]
    assert np.mean(np.array(estimates) >= math.log(10)) >= 0.98  # promised: 0.99


@pytest.mark.parametrize(
    "p, n, expected", [(50, 11, 6.0), (50, 12, 6.5), (90, 100, 90), (95, 200, 190), (99, 700, 693)]
)
def test_percentiles_by_hand(p, n, expected):
    samples = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert statistics.percentile(samples, p) == expected


@pytest.mark.parametrize("p, least", statistics.SUPPORT.items())
def test_a_percentile_needs_its_support(p, least):
    assert statistics.percentile([1.0] * (least - 1), p) is None
    assert statistics.percentile([1.0] * least, p) == 1.0


def test_variation_by_hand():
    assert statistics.variation([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(2 / 5)
    assert statistics.variation([3.0]) == 0
    assert statistics.variation([]) is None


def test_paired_bootstrap_of_a_constant_ratio_is_that_ratio():
    baseline = np.random.default_rng(0).uniform(1, 100, 200)  # the noise is common to both, and cancels
    assert statistics.paired_bootstrap(0.5 * baseline, baseline) == pytest.approx((0.5, 0.5, 0.5))


def test_paired_bootstrap_is_seeded_and_brackets_the_median():
    rng = np.random.default_rng(0)
    a, b = rng.normal(10, 1, 300), rng.normal(10, 1, 300)
    ratio, low, high = statistics.paired_bootstrap(a, b, seed=3)
    assert (ratio, low, high) == statistics.paired_bootstrap(a, b, seed=3)
    assert low < ratio < high
    assert ratio == np.median(a / b)


def test_the_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        _, low, high = statistics.paired_bootstrap(rng.lognormal(0, 0.2, 100), np.ones(100), resamples=400)
        inside += low <= 1 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_bursts_widen_the_interval():
    rng = np.random.default_rng(0)
    independent = rng.normal(1, 0.1, 1000)
    bursts = np.repeat(rng.normal(1, 0.1, 100), 10)
    widths = [np.ptp(statistics.paired_bootstrap(x, np.ones(1000))[1:]) for x in (independent, bursts)]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize(
    "low, high, margin, expected",
    [
        (0.5, 0.6, 0, "faster"),
        (1.2, 1.3, 0, "slower"),
        (0.9, 1.1, 0, "no difference shown"),
        (1.0, 1.2, 0, "no difference shown"),
        (1.05, 1.2, 0.1, "no difference shown"),
        (1.15, 1.2, 0.1, "slower"),
    ],
)
def test_a_winner_only_where_the_interval_excludes_1(low, high, margin, expected):
    assert statistics.verdict(low, high, margin) == expected


def test_what_two_loads_of_one_file_differ_by_is_no_difference():
    assert statistics.verdict(*statistics.reproducible(0.985, 0.992)) == "no difference shown"
    assert statistics.verdict(*statistics.reproducible(0.97, 0.98)) == "faster"
    assert statistics.reproducible(2, 3) == pytest.approx((1.98, 3.03))


def test_unpaired_bootstrap_takes_samples_of_different_sizes_and_is_seeded():
    rng = np.random.default_rng(0)
    new, old = rng.normal(11, 1, 300), rng.normal(10, 1, 200)
    ratio, low, high = statistics.unpaired_bootstrap(new, old, seed=1)
    assert ratio == np.median(new) / np.median(old) and low < ratio < high
    assert (ratio, low, high) == statistics.unpaired_bootstrap(new, old, seed=1)
    assert low > 1.05 and high < 1.15


def test_the_unpaired_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        samples = rng.lognormal(0, 0.2, 100), rng.lognormal(0, 0.2, 150)
        _, low, high = statistics.unpaired_bootstrap(*samples, resamples=400)
        inside += low <= 1 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_a_load_that_comes_for_half_of_the_session_widens_the_interval():
    rng = np.random.default_rng(0)
    ratios = rng.normal(1, 0.01, 1000)
    steady = statistics.paired_bootstrap(ratios, np.ones(1000))
    ratios[600:] *= 1.1  # seen by no block of ten rounds
    low, high = statistics.paired_bootstrap(ratios, np.ones(1000))[1:]
    assert steady[2] - steady[1] < 0.01 and high - low > 0.05
    low, high = statistics.unpaired_bootstrap(ratios, np.ones(1000))[1:]
    assert high - low > 0.05
