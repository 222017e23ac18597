"""What makes a score worth little: one answer to all, no better than that, labels that are never answered right."""

import numpy as np
import pytest

from kdcompress.tasks import tasks

CLASSES, SETS = tasks["classification"], tasks["multi-label"]


def told(truth, answers, labels="abcdefghij", parent=None):
    parent = None if parent is None else np.array(parent, np.int32)
    return CLASSES.warnings(np.array(answers, np.int32), np.array(truth), tuple(labels), parent)


def test_one_answer_to_all():
    assert told([0] * 19 + [1], [0] * 20, "ab") == ["answers every image with 'a', which is right for 95.0 % of them"]
    # also where that is the rarer one
    assert told([0] * 3 + [1], [1] * 4, "ab") == ["answers every image with 'b', which is right for 25.0 % of them"]


def test_no_better_than_one_answer():
    # 16 + 1 of 20 are right, and always "a" would be for 17
    assert told([0] * 17 + [1] * 3, [0] * 16 + [1] * 2 + [0] * 2, "ab") == [
        "is no better than always answering 'a' (85.0 %)"
    ]
    assert told([0] * 17 + [1] * 3, [0] * 16 + [1] * 3 + [0], "ab") == []  # 18 of 20


def test_labels_that_are_never_right():
    truth = [0] * 6 + [1] * 5 + [2] * 3 + [3] * 2
    answers = [0] * 6 + [1] * 5 + [0] * 3 + [0] * 2
    assert told(truth, answers) == ["is right for no image of 'c' (0 of 3)"]  # of "d" there are too few to say it
    many = np.repeat(np.arange(10), 4)
    assert told(many, np.where(many > 1, 0, many)) == [
        "is right for no image of 'c' (0 of 4), 'd' (0 of 4), 'e' (0 of 4), 'f' (0 of 4), 'g' (0 of 4) and 3 more"
    ]


def test_nothing_is_said_of_good_answers_or_of_one_class_alone():
    truth = np.repeat(np.arange(10), 20)
    answers = np.where(np.arange(200) % 10 == 0, (truth + 1) % 10, truth)  # 90 % in each class
    assert told(truth, answers) == [] and told(truth, truth) == []
    assert told([0] * 5, [0] * 5, "ab") == [] and told([0] * 5, [1] * 5, "ab") == []
    rare = [0] * 90 + [1] * 10
    assert told(rare, [0] * 90 + [1] * 6 + [0] * 4, "ab") == []  # unbalanced, and learnt


def test_of_a_file_what_its_parent_does_not_have():
    truth = [0] * 19 + [1] * 4 + [2] * 4
    parent = [0] * 19 + [1] * 4 + [0] * 4  # never right for "c"
    collapsed = [0] * 27
    assert told(truth, parent, parent=parent) == []
    assert told(truth, collapsed, "abc", parent) == ["answers every image with 'a', which is right for 70.4 % of them"]
    assert told(truth, collapsed, "abc", collapsed) == []
    lost = [0] * 19 + [0] * 4 + [2] * 3 + [0]  # "b" is lost, "c" found
    assert told(truth, lost, "abc", parent) == ["is right for no image of 'b' (0 of 4)"]


LABELS = ("red", "green")
TRUTH = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [1, 1], [1, 0]], np.uint8)


def test_sets_of_labels_given_alike():
    alike = np.tile(np.array([[2.0, -1.0]], np.float32), (6, 1))
    # of constant logits the average precision is the share of images that have the label: 5/6 and 3/6
    assert SETS.warnings(alike, TRUTH, LABELS) == [
        "is no better than ranking all images alike (66.7 %)",
        "gives the same labels to every image: red",
    ]
    assert SETS.warnings(alike, TRUTH, LABELS, alike) == []
    right = (2.0 * TRUTH - 1).astype(np.float32)
    assert SETS.warnings(right, TRUTH, LABELS) == []
    assert SETS.warnings(right - 5, TRUTH, LABELS) == ["gives the same labels to every image: none"]  # ranked well


def test_a_label_that_no_image_gets():
    logits = (2.0 * TRUTH - 1).astype(np.float32)
    without = logits - np.array([0, 5], np.float32)
    assert SETS.warnings(without, TRUTH, LABELS) == ["is right for no image of 'green' (0 of 3)"]
    assert SETS.warnings(without, TRUTH, LABELS, logits) == ["is right for no image of 'green' (0 of 3)"]
    assert SETS.warnings(without, TRUTH, LABELS, without) == []
    assert SETS.warnings(logits[:3], TRUTH[:3] * 0, LABELS) == []  # no image has any label


def test_objects_that_no_box_names():
    truth = np.zeros((4, 1, 6), np.float32)
    truth[:, 0] = [[2, 2, 9, 9, label, 1] for label in (0, 1, 1, 1)]
    answers = np.zeros((4, 100, 6), np.float32)
    found = tasks["detection"]
    assert found.warnings(answers, truth, LABELS) == ["finds nothing in any image"]
    assert found.warnings(answers, truth, LABELS, answers) == []
    both = answers.copy()
    both[0, 0], both[1, 0] = [2, 2, 9, 9, 0, 0.9], [2, 2, 9, 9, 1, 0.06]
    assert found.warnings(both, truth, LABELS) == []  # unsure of green, and found
    one = answers.copy()
    one[0, 0] = [2, 2, 9, 9, 0, 0.9]
    assert found.warnings(one, truth, LABELS) == ["finds no object of 'green' (0 of 3)"]
    assert found.warnings(one, truth, LABELS, both) == ["finds no object of 'green' (0 of 3)"]
    assert found.warnings(one, truth, LABELS, one) == []


@pytest.mark.parametrize("task", ["classification", "multi-label"])
def test_of_one_image_nothing_is_said(task):
    truth = np.zeros((1,), np.int64) if task == "classification" else np.ones((1, 2), np.uint8)
    outputs = (np.array([[1.0, -1.0]], np.float32),)
    assert tasks[task].warnings(tasks[task].answers(outputs), truth, LABELS) == []


@pytest.mark.parametrize("right", [57, 29, 58, 113])
def test_a_share_that_is_a_limit_meets_it(right):
    """100 * 0.57 is 56.99999999999999."""
    truth = np.zeros(100 if right < 100 else 200, np.int64)
    logits = np.zeros((len(truth), 2), np.float32)
    logits[np.arange(len(truth)) >= right, 1] = 1
    assert CLASSES.score((logits,), truth) == float(f"{100 * right / len(truth):.2f}") == 100 * right / len(truth)
