"""What every task must be, over the registry, and each against numbers by hand."""

import numpy as np
import pytest
import torch

from kdcompress.errors import UsageError
from kdcompress.tasks import tasks

LABELS = ("ant", "bee", "cat")
RANDOM = np.random.default_rng(0)
TRUTHS = {
    "classification": RANDOM.integers(0, 3, 40),
    "multi-label": RANDOM.integers(0, 2, (40, 3)).astype(np.uint8),
}


@pytest.fixture(params=list(tasks))
def task(request):
    return tasks[request.param]


def perfect(task, truth):
    """Outputs that answer everything right, each by another margin."""
    rows = np.eye(3)[truth] if truth.ndim == 1 else truth
    return ((2.0 * rows - 1) * np.linspace(1, 4, len(truth))[:, None]).astype(np.float32)


def test_right_answers_score_all_and_agree(task):
    truth = TRUTHS[task.name]
    task.check(truth, "here")
    outputs = (perfect(task, truth),)
    answers = task.answers(outputs)
    assert task.score(outputs, truth) == pytest.approx(100)
    assert task.agreement(answers, answers) == 100
    assert [each["score"] for each in task.by_label(answers, truth, LABELS)] == pytest.approx([100] * 3)
    assert task.sample(outputs, truth) == len(truth) - 1
    last = [each[-1:] for each in outputs]
    assert task.said(last, LABELS) == task.named(truth[-1], LABELS)
    assert [output.shape for output in task.outputs(LABELS)] == [(3,)]


def test_wrong_answers_do_not(task):
    truth = TRUTHS[task.name]
    right = perfect(task, truth)
    wrong = np.roll(right, 1, axis=1) if truth.ndim == 1 else -right
    assert task.score((wrong,), truth) < 60
    assert task.agreement(task.answers((wrong,)), task.answers((right,))) == 0


def test_another_order_of_labels_is_put_right(task):
    truth = TRUTHS[task.name]
    right = perfect(task, truth)
    numbers = np.array([2, 0, 1])  # the file's first label is the source's third
    (found,) = task.renumbered((right[:, numbers],), numbers)
    assert np.array_equal(found, right)


def test_decisions_change_at_half_their_margin(task):
    logits = RANDOM.normal(size=(30, 3)).astype(np.float32)
    found = task.decisions((logits,))
    nearly = found.margin.reshape(30, -1).min() / 2
    moved = logits + (nearly - 1e-3) * np.sign(RANDOM.normal(size=logits.shape))
    assert np.array_equal(task.decisions((moved.astype(np.float32),)).taken, found.taken)


def test_the_loss_falls_with_the_answers_and_has_gradients(task):
    truth = TRUTHS[task.name]
    y, right = torch.from_numpy(truth), torch.from_numpy(perfect(task, truth))
    for smoothing in (0.0, 0.1):
        logits = torch.zeros(40, 3, requires_grad=True)
        loss = task.loss(logits, y, smoothing)
        loss.backward()
        assert loss.ndim == 0 and logits.grad.abs().sum() > 0
        assert task.loss(right, y, smoothing) < loss < task.loss(-right, y, smoothing)


def test_rows_are_distributions_with_the_same_gradient_for_each_image(task):
    logits = torch.randn(4, 3)
    shares = task.rows(logits).softmax(1)
    assert torch.allclose(shares.sum(1), torch.ones(len(shares)))


def test_the_truth_of_another_task_is_refused(task):
    for name, truth in TRUTHS.items():
        if name != task.name:
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
