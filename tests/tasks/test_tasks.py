"""What every task must be, over the registry, and each against numbers by hand."""

import numpy as np
import pytest
import torch

from kdcompress.data.outlined import Outlined, codes
from kdcompress.errors import UsageError
from kdcompress.intervals import weights
from kdcompress.tasks import tasks

LABELS = ("ant", "bee", "cat")
RANDOM = np.random.default_rng(0)
IMAGES = 40


def objects():
    """In image i one object of label i % 3, and one of the next label in every second image."""
    truth = np.zeros((IMAGES, 2, 6), np.float32)
    for i, row in enumerate(truth):
        row[0] = [3, 4, 20 + i % 5, 30, i % 3, 1]
        if i % 2:
            row[1] = [32, 8, 60, 40 + i % 7, (i + 1) % 3, 1]
    return truth


def outlined():
    """The same, whose masks are all of their boxes."""
    truth = objects()
    masks = np.zeros((int(truth[..., 5].sum()), 64, 64), bool)
    for mask, row in zip(masks, truth[truth[..., 5] > 0].astype(int), strict=True):
        mask[row[1] : row[3], row[0] : row[2]] = True
    return Outlined.of(truth, codes(masks), (64, 64))


def class_maps():
    """In image i the upper half is of label i % 3, the lower of the next."""
    truth = np.zeros((IMAGES, 8, 12), np.uint8)
    truth[:, :4], truth[:, 4:] = np.arange(IMAGES)[:, None, None] % 3, np.arange(1, IMAGES + 1)[:, None, None] % 3
    return truth


TRUTHS = {
    "classification": RANDOM.integers(0, 3, IMAGES),
    "multi-label": RANDOM.integers(0, 2, (IMAGES, 3)).astype(np.uint8),
    "detection": objects(),
    "instance-segmentation": outlined(),
    "semantic-segmentation": class_maps(),
}
ONE_PLACE = {"classification", "multi-label"}  # tasks with one row of logits an image


def logits(truth):
    """Those that answer everything right, each by another margin."""
    rows = truth if truth.ndim == 2 else np.moveaxis(np.eye(3)[truth], -1, 1)
    margins = np.linspace(1, 4, len(truth)).reshape(-1, *[1] * (rows.ndim - 1))
    return ((2.0 * rows - 1) * margins).astype(np.float32)


def boxes_and_scores(truth, turned=0):
    """A place for each object, whose label's number is turned on by so many. With masks, these are all of the box."""
    masks, truth = isinstance(truth, Outlined), np.asarray(truth)
    scores = np.full((*truth.shape[:2], 3), 0.01, np.float32)
    for i, j in zip(*np.nonzero(truth[..., 5])):
        scores[i, j, (int(truth[i, j, 4]) + turned) % 3] = 0.4 + 0.5 * i / len(truth)
    found = truth[..., :4].copy(), scores
    if masks:
        found += np.ones((*truth.shape[:2], 1), np.float32), np.full((len(truth), 1, 16, 16), 5.0, np.float32)
    return found


WITH_BOXES = {"detection", "instance-segmentation"}


def right(name):
    truth = TRUTHS[name]
    return boxes_and_scores(truth) if name in WITH_BOXES else (logits(truth),)


def wrong(name):
    truth = TRUTHS[name]
    if name in WITH_BOXES:
        return boxes_and_scores(truth, turned=1)
    return (-logits(truth) if name == "multi-label" else np.roll(logits(truth), 1, axis=1),)


@pytest.fixture(params=list(tasks))
def task(request):
    return tasks[request.param]


def test_right_answers_score_all_and_agree(task):
    truth, outputs = TRUTHS[task.name], right(task.name)
    task.check(truth, "here")
    kept = task.kept(outputs)
    answers = task.answers(kept)
    assert len(answers) == IMAGES
    assert task.score(kept, truth) == pytest.approx(100)
    assert task.agreement(answers, answers) == 100
    assert [each["score"] for each in task.by_label(answers, truth, LABELS)] == pytest.approx([100] * 3)
    assert task.sample(outputs, truth, np.arange(3)) == len(truth) - 1
    last = [each[-1:] for each in outputs]
    assert task.said(last, LABELS) == task.named(truth[-1], LABELS)
    shapes = [each.shape[1:] for each in outputs]
    assert [output.shape for output in task.outputs(LABELS, shapes)] == shapes


def test_wrong_answers_do_not(task):
    truth = TRUTHS[task.name]
    good, bad = (task.kept(outputs) for outputs in (right(task.name), wrong(task.name)))
    assert task.score(bad, truth) < 60
    assert task.agreement(task.answers(bad), task.answers(good)) == 0


def test_what_two_files_decide_is_matched(task):
    good, bad = right(task.name), wrong(task.name)
    same = task.matched(good, good, 1e-4)
    assert (same.share, same.strictly) == (1, 1) and "{share}" in same.what
    assert task.matched(good, bad, 1e-4).share < 0.5
    nearly = [each + np.float32(1e-5) for each in good]
    assert task.matched(good, nearly, 1e-3).share == 1


def mixed(name):
    """What is kept of right answers to some images, and of wrong ones to the others."""
    chosen = np.random.default_rng(1).random(IMAGES) < 0.6
    pairs = zip(*(tasks[name].kept(outputs) for outputs in (right(name), wrong(name))), strict=True)
    return [np.where(chosen.reshape(-1, *[1] * (good.ndim - 1)), good, bad) for good, bad in pairs]


def test_weighed_images_score_as_they_do_where_they_are_there_as_often(task):
    truth, kept = TRUTHS[task.name], mixed(task.name)
    answers, drawn = task.answers(kept), weights(IMAGES)[:20]
    places = [np.arange(IMAGES), *(np.repeat(np.arange(IMAGES), row) for row in drawn)]
    expected = [task.score([each[place] for each in kept], truth[place]) for place in places]
    assert 10 < expected[0] < 90 and np.ptp(expected) > 5
    found = task.resampled(answers, truth, np.concatenate([np.ones((1, IMAGES), np.uint16), drawn]))
    assert found.dtype == np.float64 and found == pytest.approx(expected, abs=1e-9)
    assert len(task.resampled(answers, truth, drawn[:0])) == 0


def test_images_are_right_where_their_share_is_the_score(task):
    truth, kept = TRUTHS[task.name], mixed(task.name)
    right = task.right(task.answers(kept), truth)
    if right is not None:
        assert right.dtype == bool and 100.0 * right.mean() == pytest.approx(task.score(kept, truth))


def test_scores_that_are_alike_are_weighed_as_they_count():
    truth, logits = RANDOM.integers(0, 2, (IMAGES, 2)).astype(np.uint8), RANDOM.integers(0, 4, (IMAGES, 2))
    task, drawn = tasks["multi-label"], weights(IMAGES)[:20]
    places = [np.repeat(np.arange(IMAGES), row) for row in drawn]
    expected = [task.score((logits[place],), truth[place]) for place in places]
    assert task.resampled(logits, truth, drawn) == pytest.approx(expected, abs=1e-9)


def test_what_is_kept_of_the_parts_of_a_split_is_that_of_the_whole(task):
    outputs = right(task.name)
    parts = [task.kept([each[rows] for each in outputs]) for rows in (slice(0, 7), slice(7, None))]
    for whole, pieces in zip(task.kept(outputs), zip(*parts), strict=True):
        assert np.array_equal(whole, np.concatenate(pieces))


def test_another_order_of_labels_is_put_right(task):
    numbers = np.array([2, 0, 1])  # the file's first label is the source's third
    outputs = list(right(task.name))
    expected, scores = task.kept(tuple(outputs)), min(1, len(outputs) - 1)
    axis = 1 if task.name == "semantic-segmentation" else -1
    outputs[scores] = np.take(outputs[scores], numbers, axis)
    found = task.renumbered(task.kept(tuple(outputs)), numbers)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_average_precision_is_computed_once_for_the_same_answers(monkeypatch):
    from kdcompress.tasks import _found

    calls = []
    true = _found.average_precision
    monkeypatch.setattr(_found, "average_precision", lambda *given: calls.append(1) or true(*given))
    _found._precision_of.cache_clear()
    task, truth = tasks["detection"], TRUTHS["detection"]
    kept = task.kept(right("detection"))
    score, details = task.score(kept, truth), task.details(kept, truth)
    each, curve = task.by_label(task.answers(kept), truth, LABELS), task.curve(task.answers(kept).copy(), truth, LABELS)
    assert len(calls) == 1 and score == pytest.approx(details["AP50"]) == pytest.approx(each[0]["score"])
    assert {p for _, p in curve.points} == {1.0}
    others = task.kept(wrong("detection"))
    assert task.score(others, truth) < score and len(calls) == 2
    truth = truth.copy()
    truth[0, 0, 4] = 2
    assert task.score(kept, truth) < score and len(calls) == 3


def test_labels_that_nothing_has_are_in_the_table_of_all():
    task, truth = tasks["detection"], TRUTHS["detection"]
    answers = task.answers(task.kept(right("detection")))
    found = task.by_label(answers, truth, (*LABELS, "dog", "emu"))
    assert [(each["label"], each["n"], each["score"]) for each in found[3:]] == [("dog", 0, None), ("emu", 0, None)]


def test_confusions_are_of_square_tables(task):
    truth = TRUTHS[task.name]
    for outputs in (right(task.name), wrong(task.name)):
        found = task.confusion(task.answers(task.kept(outputs)), truth, LABELS)
        if found is not None:
            assert np.array(found.counts).shape == (len(found.labels),) * 2
            assert found.labels[:3] == list(LABELS) and all(isinstance(n, int) for row in found.counts for n in row)


def test_decisions_change_at_half_their_margin():
    for task in (tasks["classification"], tasks["multi-label"]):
        logits = RANDOM.normal(size=(30, 3)).astype(np.float32)
        found = task.decisions((logits,))
        nearly = found.margin.reshape(30, -1).min() / 2
        moved = logits + (nearly - 1e-3) * np.sign(RANDOM.normal(size=logits.shape))
        assert np.array_equal(task.decisions((moved.astype(np.float32),)).taken, found.taken)


def test_the_loss_falls_with_the_answers_and_has_gradients():
    for name in ("classification", "multi-label"):
        task, truth = tasks[name], TRUTHS[name]
        y, right = torch.from_numpy(truth), torch.from_numpy(logits(truth))
        for smoothing in (0.0, 0.1):
            start = torch.zeros(40, 3, requires_grad=True)
            loss = task.loss(start, y, smoothing)
            loss.backward()
            assert loss.ndim == 0 and start.grad.abs().sum() > 0
            assert task.loss(right, y, smoothing) < loss < task.loss(-right, y, smoothing)


def test_a_classifier_is_no_detector():
    with pytest.raises(UsageError, match="gives no detections"):
        tasks["detection"].loss(torch.zeros(40, 3), torch.from_numpy(TRUTHS["detection"]), 0.0)
    with pytest.raises(UsageError, match="gives no detections"):
        tasks["detection"].outputs(LABELS, [(3,)])
    with pytest.raises(UsageError, match="gives no detections"):
        tasks["detection"].outputs(LABELS, [(7, 4), (7, 4)])  # of four labels
    with pytest.raises(UsageError, match="gives no masks"):
        tasks["instance-segmentation"].outputs(LABELS, [(7, 4), (7, 3)])
    with pytest.raises(UsageError, match="gives no masks"):
        tasks["instance-segmentation"].outputs(LABELS, [(7, 4), (7, 3), (7, 5), (6, 16, 16)])


def test_rows_are_distributions_with_the_same_gradient_for_each_image(task):
    logits = torch.randn(4, 3) if task.name in ONE_PLACE else torch.randn(4, 5, 3)
    shares = task.rows(logits).softmax(1)
    assert torch.allclose(shares.sum(1), torch.ones(len(shares)))


def test_the_truth_of_another_task_is_refused(task):
    for name, truth in TRUTHS.items():
        if name != task.name and (task.name, name) != ("detection", "instance-segmentation"):  # masks have boxes
            with pytest.raises(UsageError):
                task.check(truth, "here")


def test_mean_average_precision_by_hand():
    # of label 0 images 0 and 2 have it, and it ranks 0, 1, 2: precision 1/1 and 2/3; of label 1 image 1, ranked last
    truth = np.array([[1, 0], [0, 1], [1, 0]], np.uint8)
    logits = np.array([[3.0, 2.0], [2.0, -1.0], [1.0, 1.0]], np.float32)
    task = tasks["multi-label"]
    assert task.score((logits,), truth) == pytest.approx(100 * ((1 + 2 / 3) / 2 + 1 / 3) / 2)
    # answers: label 0 all three, label 1 images 0 and 2: 2 right of 5 said and 3 there
    details = task.details((logits,), truth)
    assert details["F1 over all labels"] == pytest.approx(100 * 2 * 2 / (5 + 3))
    assert details["F1, mean of the labels"] == pytest.approx(100 * (2 * 2 / (3 + 2) + 0) / 2)


def test_scores_that_are_equal_count_alike_in_any_order():
    truth, logits = np.array([[1], [0], [1], [0]], np.uint8), np.zeros((4, 1), np.float32)
    assert tasks["multi-label"].by_label(logits, truth, ["a"])[0]["score"] == pytest.approx(50)
    assert tasks["multi-label"].by_label(logits, truth[:1] * 0, ["a"])[0]["score"] is None


def test_average_precision_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    truth = RANDOM.integers(0, 2, (200, 5)).astype(np.uint8)
    logits = np.round(RANDOM.normal(size=(200, 5)), 1).astype(np.float32)  # with ties
    expected = 100 * metrics.average_precision_score(truth, logits, average="macro")
    assert tasks["multi-label"].score((logits,), truth) == pytest.approx(expected)


def test_the_divergence_of_rows_is_that_of_bernoulli_variables():
    from kdcompress.methods.kd import kd_loss

    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64)
    p, q = torch.sigmoid(student / 2), torch.sigmoid(teacher / 2)
    by_hand = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean() * 4
    rows = tasks["multi-label"].rows
    assert torch.allclose(kd_loss(rows(student), rows(teacher), 2.0).double(), by_hand, rtol=1e-5)


def test_calibration_error_by_hand():
    # two images at confidence 0.9 of which one is right, one at 0.6 that is right: (|1 - 1.8| + |1 - 0.6|) / 3
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], np.float32))
    found = tasks["classification"].details((logits,), np.array([0, 1, 0]))["calibration error"]
    assert found == pytest.approx(100 * (0.8 + 0.4) / 3, abs=1e-4)
