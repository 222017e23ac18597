"""The figures of classifiers against scikit-learn and numbers by hand, drawn again, and with a threshold."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as sk

from kdcompress.errors import UsageError
from kdcompress.intervals import interval, lost, sample, weights
from kdcompress.tasks import tasks
from kdcompress.tasks._figures import areas, log_odds

CLASSES = tasks["classification"]
METRICS = tuple(CLASSES.metrics)


def answered(images, classes, seed=0):
    """Logits of a network that is right for about half of the images, of classes of unequal size."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, classes + 1) ** 2
    truth = rng.choice(classes, images, p=share / share.sum())
    logits = rng.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), truth] += 1
    return logits, truth


def by_sklearn(name, logits, truth):
    said, shares = logits.argmax(1), np.exp(logits.astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    two = shares[:, 1] if shares.shape[1] == 2 else shares
    return (
        100
        * {
            "accuracy": lambda: sk.accuracy_score(truth, said),
            "balanced-accuracy": lambda: sk.balanced_accuracy_score(truth, said),
            "f1": lambda: sk.f1_score(truth, said, average="macro"),
            "auroc": lambda: sk.roc_auc_score(truth, two, multi_class="ovr", average="macro"),
        }[name]()
    )


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_figures_are_those_of_sklearn(name, classes):
    logits, truth = answered(300, classes)
    task = CLASSES.judging(name)
    assert task.score((logits,), truth) == pytest.approx(by_sklearn(name, logits, truth), abs=1e-9)
    often = weights(300, seed=1)[:5]
    drawn = [np.repeat(np.arange(300), row) for row in often]
    again = [by_sklearn(name, logits[rows], truth[rows]) for rows in drawn]
    assert task.resampled(task.answers((logits,)), truth, often) == pytest.approx(again, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"), [("balanced-accuracy", (1 + 1 / 2 + 0) / 3), ("f1", (4 / 5 + 2 / 4 + 0 + 0) / 4)]
)
def test_figures_by_hand(name, expected):
    """Of class 0 two of two are right and one more is answered so. Of 1 one of two is right, and one more answered so.
    Of 2 none of two is. No image is of class 3, which is answered once and counts in F1 alone."""
    truth, said = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 1, 3])
    logits = np.eye(4, dtype=np.float32)[said]
    assert CLASSES.judging(name).score((logits,), truth) == pytest.approx(100 * expected)


def test_area_by_hand():
    # positives score 3, 1; negatives 2, 1, 0: of six pairs 3 + 1 are won and one is a tie
    scores, positive = np.array([3.0, 1.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False, False])
    one = np.ones((1, 5), np.uint16)
    assert areas(scores, positive, one) == pytest.approx([4.5 / 6])
    assert areas(np.zeros(5), positive, one) == pytest.approx([0.5]) and np.isnan(areas(scores, scores > 9, one))
    assert CLASSES.judging("auroc").score((np.zeros((4, 3), np.float32),), np.zeros(4, np.int64)) == 50


@pytest.mark.parametrize("scale", [1, 40, 1000])
def test_log_odds_rank_where_shares_are_all_one(scale):
    logits = scale * np.random.default_rng(0).normal(size=(50, 4))
    with np.errstate(divide="ignore"):
        rest = np.stack([np.logaddexp.reduce(np.delete(logits, k, 1), 1) for k in range(4)], 1)
    assert log_odds(logits) == pytest.approx(logits - rest, rel=1e-9, abs=1e-9)
    assert (log_odds(logits).argmax(1) == logits.argmax(1)).all()


@pytest.mark.parametrize("name", METRICS)
def test_precision_and_recall_of_each_class(name):
    logits, truth = answered(300, 3)
    task = CLASSES.judging(name)
    found = task.by_label(task.answers((logits,)), truth, "abc")
    precision, recall, f1, count = sk.precision_recall_fscore_support(truth, logits.argmax(1))
    for k, row in enumerate(found):
        assert (row["precision"], row["recall"]) == pytest.approx((100 * precision[k], 100 * recall[k]))
        assert row["n"] == count[k] and row["answered"] == (logits.argmax(1) == k).sum()
        odds = log_odds(logits)[:, k]
        score = {"f1": f1[k], "auroc": sk.roc_auc_score(truth == k, odds)}.get(name, recall[k])
        assert row["score"] == pytest.approx(100 * score, abs=1e-5)
    empty = task.by_label(task.answers((logits,)), truth, "abcd")[3] if name != "auroc" else None
    assert empty is None or (empty["n"], empty["score"], empty["precision"], empty["recall"]) == (0, None, None, None)


@pytest.mark.parametrize("name", METRICS)
def test_always_answering_the_largest_class(name):
    truth = np.array([0] * 69 + [1] * 31)
    blind = CLASSES.judging(name).blind(truth, ("ok", "scratch"))
    wanted = {"accuracy": 69, "balanced-accuracy": 50, "f1": 100 * (2 * 69 / 169) / 2, "auroc": 50}[name]
    assert blind.score == pytest.approx(wanted) and blind.what == "always answering 'ok'"
    assert CLASSES.judging(name).blind(truth[:69], ("ok", "scratch")) is None
    alike = np.tile(np.array([[1.0, 0.0]], np.float32), (100, 1))
    told = CLASSES.judging(name).warnings(CLASSES.judging(name).answers((alike,)), truth, ("ok", "scratch"))
    assert told == ["answers every image with 'ok', which is right for 69.0 % of them"]


@pytest.mark.parametrize("name", METRICS[1:])
def test_intervals_of_a_figure_and_of_a_difference(name):
    logits, truth = answered(400, 3)
    task, worse = CLASSES.judging(name), logits + np.random.default_rng(1).normal(size=logits.shape) * 3
    mine, theirs = (sample(task, task.answers((each,)), truth, task.score((each,), truth)) for each in (worse, logits))
    assert task.right(task.answers((logits,)), truth) is None and task.noise(80, 100) is None
    assert interval(mine).low < mine.score < interval(mine).high
    assert lost(theirs, theirs).verdict == "no difference shown" and lost(mine, theirs).verdict == "worse"


def test_an_unknown_figure_is_refused():
    with pytest.raises(UsageError, match="did you mean 'auroc'"):
        CLASSES.judging("aurroc")
    for name in tasks:
        if name != "classification":
            with pytest.raises(UsageError, match="judged by one figure"):
                tasks[name].judging("f1")


# A threshold


def logits_of(margins):
    margins = np.asarray(margins, np.float64)
    return np.stack([-margins / 2, margins / 2], 1)


def test_a_threshold_by_hand():
    # shares of the second class below and above those of the others: right where it is between -2 and -1
    truth, margins = np.array([0, 0, 0, 1, 1]), [-5.0, -4.0, -2.0, -1.0, 3.0]
    found = CLASSES.judging("balanced-accuracy").threshold_for((logits_of(margins),), truth)
    assert found.share == pytest.approx(1 / (1 + np.exp(1.5)), abs=1e-6)
    assert (found.score, found.at_half, found.images, found.name) == (100, 75, 5, "balanced accuracy")
    decided = CLASSES.judging(threshold=found.share)
    assert decided.answers((logits_of(margins),)).tolist() == truth.tolist()
    assert decided.said((logits_of([-1.2]),), "ab") == "b" and decided.said((logits_of([-1.6]),), "ab") == "a"


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_is_better(name, seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random(60) < 0.3).astype(np.int64)
    logits = logits_of(rng.normal(size=60) + truth - 1.5)
    by = "balanced-accuracy" if name == "auroc" else name
    found = CLASSES.judging(name).threshold_for((logits,), truth)
    scores = {t: CLASSES.judging(by, t).score((logits,), truth) for t in [*np.linspace(0.01, 0.99, 99), found.share]}
    assert found.score == pytest.approx(scores[found.share]) and found.score == pytest.approx(max(scores.values()))
    assert found.at_half == pytest.approx(CLASSES.judging(by).score((logits,), truth))


def test_it_stays_at_a_half_where_none_is_better():
    logits, truth = logits_of([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1])
    for name in METRICS:
        assert CLASSES.judging(name).threshold_for((logits,), truth).share == 0.5
    sure = logits_of([-60.0, -50.0, 45.0, 50.0])  # whose share rounds to 1: no threshold that programs cannot tell
    assert CLASSES.threshold_for((sure,), np.array([0, 0, 0, 1])).share in (0.5, 0.999)


def test_a_threshold_changes_no_area_and_no_other_number_of_classes():
    logits, truth = answered(200, 2)
    plain, moved = CLASSES.judging("auroc"), CLASSES.judging("auroc", 0.2)
    assert moved.score((logits,), truth) == pytest.approx(plain.score((logits,), truth), abs=1e-4)
    answers = moved.answers((logits,))
    table = np.array(moved.confusion(answers, truth, "ab").counts)
    share = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0]).astype(np.float64)))
    assert (table.sum(0) == [(share <= 0.2).sum(), (share > 0.2).sum()]).all()
    assert moved.calibration((logits,), truth) == plain.calibration((logits,), truth)
    assert [CLASSES.decided_by_threshold("abc"[:n]) for n in (1, 2, 3)] == [False, True, False]
    assert not any(tasks[name].decided_by_threshold("ab") for name in tasks if name != "classification")


@pytest.mark.parametrize("numbers", [[0, 1], [1, 0]])
def test_classes_in_another_order_are_decided_alike(numbers):
    logits, numbers = answered(100, 2)[0], np.array(numbers)
    task = CLASSES.judging(threshold=0.3)
    ordered = task.renumbering(numbers).answers(task.renumbered((logits,), numbers))
    assert (ordered == numbers[task.answers((logits,))]).all()
    truth = numbers[task.answers((logits,))]
    best = task.sample((logits,), truth, numbers)
    margins = np.abs(logits[:, 1] - logits[:, 0] - np.log(0.3 / 0.7))
    assert margins[best] == margins.max()


def test_parity_is_about_what_the_threshold_decides():
    one = logits_of([-1.0, 1.0])
    other = one + np.array([[0.3, -0.3], [0, 0]])
    assert CLASSES.matched((one,), (other,), 0.0).strictly == 1
    assert CLASSES.judging(threshold=1 / (1 + np.exp(1.2))).matched((one,), (other,), 0.0).strictly == 0.5


def test_reliability_by_hand():
    # shares 0.9 twice, of which one is right, and 0.6, which is
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], np.float32))
    found = CLASSES.calibration((logits,), np.array([0, 1, 0]))
    assert [n for n, _, _ in found.bins] == [1, 2]
    assert np.array(found.bins)[:, 1:] == pytest.approx(np.array([[0.6, 1.0], [0.9, 0.5]]), abs=1e-6)
    assert found.error == pytest.approx(100 * (0.8 + 0.4) / 3, abs=1e-4)
    assert tasks["multi-label"].calibration((logits,), np.eye(3, 2)) is None


def test_a_loss_of_weighted_classes_by_hand():
    import torch

    rng = np.random.default_rng(0)
    logits, y = torch.from_numpy(rng.normal(size=(6, 3))).float(), torch.tensor([0, 0, 1, 2, 1, 0])
    weights, smoothing = torch.tensor([0.5, 2.0, 1.5]), 0.2
    log = logits.log_softmax(1)
    each = [weights[k] * -(0.8 * log[i, k] + 0.2 * log[i].mean()) for i, k in enumerate(y)]
    assert torch.allclose(CLASSES.loss(logits, y, smoothing, weights), torch.stack(each).mean())
    one = torch.nn.functional.one_hot(y, 3).float()
    mixed = 0.7 * one + 0.3 * one.roll(1, 0)
    other = [weights[k] * -(0.8 * log[i, k] + 0.2 * log[i].mean()) for i, k in enumerate(y.roll(1))]
    wanted = 0.7 * torch.stack(each).mean() + 0.3 * torch.stack(other).mean()
    assert torch.allclose(CLASSES.loss(logits, mixed, smoothing, weights), wanted)
    for y_given, s in itertools.product((y, mixed), (0.0, 0.1)):
        assert torch.allclose(CLASSES.loss(logits, y_given, s, torch.ones(3)), CLASSES.loss(logits, y_given, s))
    halves = [CLASSES.loss(logits[part], y[part], 0.0, weights) for part in (slice(3), slice(3, 6))]
    assert torch.allclose(torch.stack(halves).mean(), CLASSES.loss(logits, y, 0.0, weights))  # of any batch's parts
