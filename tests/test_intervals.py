"""95 % intervals: published numbers, formulas of another kind, and how often they hold what is true."""

import math

import numpy as np
import pytest

from kdcompress import intervals
from kdcompress.intervals import FEWEST, Interval, Sample, interval, lost, middle, sample, tango, weights, wilson
from kdcompress.tasks import tasks

TASK = tasks["classification"]


def of(right):
    """The sample of a file that answers so many images rightly: bool [N]."""
    right = np.asarray(right)
    return sample(TASK, np.where(right, 1, 0), np.ones(len(right), np.int64), 100.0 * right.mean())


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilson_is_as_published(right, images, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), p. 857, table I, method 3."""
    assert wilson(right, images) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (3, 7), (480, 525), (525, 525)])
def test_the_ends_of_wilson_are_where_the_score_test_turns(right, images):
    for end in wilson(right, images):
        share = end / 100
        away = abs(right / images - share) / math.sqrt(max(share * (1 - share), 1e-300) / images)
        assert away == pytest.approx(intervals.Z, rel=1e-6) or end in (0.0, 100.0)
    low, high = wilson(right, images)
    assert high - low > 0 and (low == 0) == (right == 0) and (high == 100) == (right == images)


def test_tango_is_as_published():
    """Fagerland, Lydersen & Laake, Statistics in Medicine 33 (2014), p. 2850: 7 and 1 of 21 children."""
    assert tango(7, 1, 21) == pytest.approx((2.6, 51.7), abs=0.05)
    assert tango(1, 7, 21) == pytest.approx((-51.7, -2.6), abs=0.05)


@pytest.mark.parametrize(("losses", "gains", "images"), [(7, 1, 21), (3, 2, 525), (0, 0, 50), (0, 4, 30)])
def test_the_ends_of_tango_are_where_the_score_test_turns(losses, gains, images):
    """With the likeliest shares at a difference by trying them all."""

    def away(difference):
        shares = np.linspace(max(0.0, -difference), (1 - difference) / 2, 400_001)  # of gains
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = (images - losses - gains) * np.log(1 - difference - 2 * shares)
            likely = np.where(losses > 0, losses * np.log(shares + difference), 0)
            likely = likely + np.where(gains > 0, gains * np.log(shares), 0) + rest
        best = shares[np.nanargmax(likely)]
        return (losses - gains - images * difference) / math.sqrt(images * (2 * best + difference - difference**2))

    low, high = tango(losses, gains, images)
    assert away(low / 100) == pytest.approx(intervals.Z, abs=1e-3)
    assert away(high / 100) == pytest.approx(-intervals.Z, abs=1e-3)


@pytest.mark.parametrize(("losses", "gains"), [(14, 5), (13, 5), (12, 5), (3, 0), (4, 0), (40, 25)])
def test_no_difference_is_shown_where_mcnemars_test_shows_none(losses, gains):
    low, high = tango(losses, gains, 1000)
    assert (low > 0) == ((losses - gains) / math.sqrt(losses + gains) > intervals.Z)
    assert high > 0


@pytest.mark.parametrize(("losses", "gains", "images"), [(0.01, 0.005, 525), (0.002, 0.002, 525), (0.1, 0.05, 60)])
def test_they_hold_what_is_true_in_95_of_100_samples(losses, gains, images):
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(images, [losses, gains, 1 - losses - gains], 2000)
    held = [low <= 100 * (losses - gains) <= high for low, high in (tango(*row[:2].tolist(), images) for row in drawn)]
    assert 0.935 < np.mean(held) <= 1
    ends = [wilson(right, images) for right in rng.binomial(images, 0.92, 2000).tolist()]
    assert 0.93 < np.mean([low <= 92 <= high for low, high in ends]) < 0.98


def test_resampled_figures_hold_what_is_true_in_95_of_100_samples():
    """mIoU of images whose pixels are drawn: of one file, and of two on the same images."""
    rng, task, images = np.random.default_rng(5), tasks["semantic-segmentation"], 60

    def drawn(count):
        """Truth, and the answers of two files, which are right for much of an easy image."""
        truth = rng.integers(0, 3, (count, 8, 8)).astype(np.uint8)
        easy, other = rng.beta(4, 2, (count, 1, 1)), rng.integers(0, 3, (2, count, 8, 8)).astype(np.uint8)
        return truth, *(np.where(rng.random(truth.shape) < easy - k / 20, truth, other[k]) for k in (0, 1))

    truth, *files = drawn(30_000)
    true = [task.score((each,), truth) for each in files]
    held = []
    for _ in range(200):
        truth, *files = drawn(images)
        mine, theirs = (sample(task, each, truth, task.score((each,), truth)) for each in files)
        found, between = interval(mine), lost(theirs, mine)
        held.append((found.low <= true[0] <= found.high, between.low <= true[0] - true[1] <= between.high))
        assert between.high - between.low < 0.7 * math.hypot(*(i.high - i.low for i in map(interval, (mine, theirs))))
    assert (np.mean(held, 0) > 0.91).all()


def test_images_that_only_one_file_has_right_decide():
    right = np.arange(525) >= 40
    mine = right.copy()
    mine[:5] = True  # gains 5
    mine[100:108] = False  # loses 8
    found = lost(of(mine), of(right))
    assert found.value == pytest.approx(300 / 525) and found.images == 525
    assert (found.low, found.high) == tango(8, 5, 525) and found.verdict == "no difference shown"
    wide = [interval(of(each)) for each in (mine, right)]
    assert found.high - found.low < 0.7 * math.hypot(*(each.high - each.low for each in wide))
    assert lost(of(right & (np.arange(525) < 500)), of(right)).verdict == "worse"
    assert lost(of(np.ones(525, bool)), of(right)).verdict == "better"


def test_files_that_answer_alike_may_differ_by_the_next_images():
    """No discordant image of n: the interval is that of what n images can show."""
    found = lost(of([True] * 525), of([True] * 525))
    assert found.value == 0 and found.verdict == "no difference shown"
    end = 100 * intervals.Z**2 / (525 + intervals.Z**2)
    assert (found.low, found.high) == pytest.approx((-end, end), rel=1e-6)


def test_all_right_and_one_image():
    assert interval(of([True] * 10)) == Interval(100.0, wilson(10, 10)[0], 100.0, 10)
    low, high = (interval(of([True])).low, lost(of([True]), of([True])).high)
    assert 0 < low < 30 and 70 < high < 90
    assert interval(Sample(0.0, 0, np.zeros(0, bool))) is None


def test_too_few_images_are_not_resampled():
    task = tasks["semantic-segmentation"]
    truth = np.zeros((FEWEST, 2, 2), np.uint8)
    few = [sample(task, truth[:n], truth[:n], 100.0) for n in (1, FEWEST - 1, FEWEST)]
    assert [interval(each) for each in few] == [None, None, Interval(100.0, 100.0, 100.0, FEWEST)]
    assert lost(few[0], few[1]) is None


def test_weights_are_resamples_and_the_same_each_time():
    drawn = weights(300)
    assert drawn.shape == (1000, 300) and (drawn.sum(1) == 300).all() and np.array_equal(drawn, weights(300))
    assert abs(drawn.mean() - 1) < 1e-9 and drawn.var() == pytest.approx(1, abs=0.02)  # multinomial
    assert len(weights(20_000)) == 500 and len(weights(200_000)) == 200


def test_few_images_widen_the_middle():
    values = np.random.default_rng(0).normal(0, 1, 200_000)
    assert middle(values, 5.0, 10**6) == pytest.approx((5 - 1.96, 5 + 1.96), abs=0.02)
    t = 2.2622 * math.sqrt(10 / 9)  # Student's t of 9 degrees of freedom
    assert middle(values, 5.0, 10) == pytest.approx((5 - t, 5 + t), abs=0.04)


def test_how_many_images_would_decide():
    found = Interval(0.57, 0.10, 1.10, 525)
    assert not found.decides(0.5) and found.decides(0.05) and found.decides(1.2)
    assert found.enough(0.5) == 24_000  # 525 * (0.47 / 0.07)^2 = 23,668
    assert found.enough(1.0) == 800  # 525 * (0.53 / 0.43)^2 = 797.6
    assert found.enough(0.57) is None and found.enough(0.5699) is None
    assert Interval(0.57, 0.0, 0.6, 525).enough(0.6001) == 530


def test_more_images_decide_when_they_are_there():
    """What is said of 300 images, tried with as many as it says."""
    losses, gains, images = 9, 3, 300
    small = Interval(2.0, *tango(losses, gains, images), images)
    assert not small.decides(1.0)
    times = math.ceil(small.enough(1.0) / images)
    assert Interval(2.0, *tango(losses * times, gains * times, images * times), images * times).decides(1.0)
    half = times // 2
    assert not Interval(2.0, *tango(losses * half, gains * half, images * half), images * half).decides(1.0)
