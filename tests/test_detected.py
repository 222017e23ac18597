"""Detections held to the truth, by hand."""

import numpy as np
import pytest

from kdcompress import detected
from kdcompress.boxes import Detections
from kdcompress.detected import chosen, confusion, held, listed, pictures, plural, verdict

LABELS = ["bag", "shirt", "dress"]
A, B, C = [0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 60, 60]
AWAY = [70, 70, 80, 80]


def truth(*rows, most=4):
    """Of an image: (box, label[, kind])."""
    made = np.zeros((most, 6), np.float32)
    for row, (box, label, *kind) in zip(made, rows):
        row[:] = [*box, label, *(kind or [1])]
    return made


def found(*rows):
    """(box, label, score) by descending score."""
    boxes, labels, scores = zip(*rows) if rows else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(scores, np.float32)
    )


def facts(each):
    return each.right, each.missed, each.wrong


def test_right_missed_and_wrong_by_hand():
    row = truth((A, 0), (B, 1))
    assert facts(held(found((A, 0, 0.9), (B, 1, 0.8)), row)) == (2, 0, 0)
    assert facts(held(found((A, 0, 0.9), (B, 0, 0.8)), row)) == (1, 1, 1)  # the place of a shirt, called a bag
    assert facts(held(found((A, 0, 0.9), (A, 0, 0.8)), row)) == (1, 1, 1)  # the same object twice
    assert facts(held(found(), row)) == (0, 2, 0)
    assert facts(held(found((AWAY, 2, 0.9)), row)) == (0, 2, 1)
    assert held(found((B, 1, 0.9), (A, 0, 0.8)), row).of.tolist() == [1, 0]


def test_half_of_the_union_is_right_and_less_is_not():
    row = truth((A, 0))
    assert facts(held(found(([0, 0, 10, 5], 0, 0.9)), row)) == (1, 0, 0)
    assert facts(held(found(([0, 0, 10, 4.9], 0, 0.9)), row)) == (0, 1, 1)


def test_the_better_score_takes_the_object():
    row = truth((A, 0))
    assert held(found(([0, 0, 10, 8], 0, 0.9), (A, 0, 0.8)), row).of.tolist() == [0, -1]


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong():
    row = truth((A, 0), (C, 1, 2))
    inside = [42, 42, 50, 50]
    assert facts(held(found((A, 0, 0.9), (inside, 1, 0.8)), row)) == (1, 0, 0)
    assert facts(held(found((inside, 0, 0.8)), row)) == (0, 1, 1)  # of another label
    assert facts(held(found((inside, 0, 0.8)), row, labelled=False)) == (0, 1, 0)
    assert facts(held(found(([55, 55, 75, 75], 1, 0.8)), row)) == (0, 1, 1)  # a sixteenth of it lies there


def test_f1_by_hand():
    row = truth((A, 0), (B, 1))
    assert held(found((A, 0, 0.9), (AWAY, 1, 0.8)), row).f1 == pytest.approx(2 / 4)
    assert held(found(), truth()).f1 == 1 and held(found((A, 0, 0.9)), truth()).f1 == 0


def test_confusion_with_the_background_by_hand():
    rows = np.stack([truth((A, 0), (B, 1)), truth((A, 2)), truth((C, 1, 2))])
    each = [
        found((A, 0, 0.9), (B, 2, 0.8), (AWAY, 1, 0.7)),  # a bag; a shirt taken for a dress; a shirt of nothing
        found(),  # a dress not found
        found(([42, 42, 50, 50], 0, 0.9)),  # on a crowd
    ]
    assert confusion(each, rows, 3).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]


def test_each_object_and_each_detection_is_in_one_cell():
    """Rows sum to the objects of a label, columns to the detections of one."""
    random = np.random.default_rng(0)
    rows, each = [], []
    for _ in range(30):
        corners = random.integers(0, 60, (8, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + random.integers(5, 30, (8, 2))], 1)
        labels = random.integers(0, 3, 8)
        rows.append(truth(*((boxes[i], labels[i]) for i in range(4))))
        scores = np.sort(random.random(6).astype(np.float32))[::-1]
        near = np.concatenate([boxes[:3] + 1, boxes[5:]])
        each.append(Detections(near.astype(np.float32), random.integers(0, 3, 6), scores))
    rows = np.stack(rows)
    table = confusion(each, rows, 3)
    assert table[:3].sum(1).tolist() == np.bincount(rows[..., 4].astype(int).ravel(), minlength=3).tolist()
    assert table[:, :3].sum(0).tolist() == np.bincount(np.concatenate([e.labels for e in each]), minlength=3).tolist()


def test_images_are_chosen_by_what_is_lost_and_won():
    rows = [truth((A, 0), (B, 1), (C, 2))] * 6 + [truth()]
    whole, none = found((A, 0, 0.9), (B, 1, 0.8), (C, 2, 0.7)), found()
    one, two = found((A, 0, 0.9)), found((A, 0, 0.9), (B, 1, 0.8))
    files = {
        "teacher": [whole, whole, whole, none, one, one, none],
        "student": [whole, none, one, one, one, two, found((A, 0, 0.9))],
        "int8": [whole, none, one, two, one, whole, none],
    }
    judged = {name: [held(f, row) for f, row in zip(each, rows)] for name, each in files.items()}
    picked = chosen(judged)
    # int8 by its F1: 1 (0), 2 and 4 (0.5), 3 (0.8), 0 and 5 (1); an image without objects is none of them
    assert [i for title, _, i in picked if title == "Typical"] == [4, 0]  # 3, also in the middle, and 2 are shown
    assert [i for title, _, i in picked if title == "Most lost"] == [1, 2]  # 3 objects, then 2
    assert [i for title, _, i in picked if title == "Most won"] == [3, 5]  # an object each; more F1 won with the first
    said = {title: what for title, what, _ in picked}
    assert said["Most lost"] == "teacher finds objects that neither student nor int8 does."
    assert said["Most won"] == "student and int8 find objects that teacher does not."
    assert chosen(judged) == picked


def test_of_one_file_there_is_nothing_to_compare():
    rows = [truth((A, 0))] * 3
    judged = {"student": [held(found((A, 0, 0.9)), row) for row in rows]}
    assert {title for title, _, _ in chosen(judged)} == {"Typical"}
    assert chosen({"student": [held(found(), truth())]}) == []
    two = {"student": judged["student"], "int8": [held(found(), row) for row in rows]}
    assert {what for title, what, _ in chosen(two) if title == "Most lost"} == {
        "student finds objects that int8 does not."
    }


def test_pictures_have_a_panel_of_the_truth_and_of_each_file(monkeypatch):
    drawn = []
    monkeypatch.setattr(detected, "picture", lambda pixels, marks: drawn.append(marks) or "data:")
    rows = np.stack([truth((A, 0), (B, 1))])
    wrong = [(AWAY, 2, 0.6 - i / 100) for i in range(7)]
    files = {"teacher": [found((A, 0, 0.876), (B, 1, 0.5))], "int8": [found((A, 0, 0.9), *wrong)]}
    (shown,) = pictures(np.zeros((1, 90, 90, 3), np.uint8), rows, files, LABELS)
    assert (shown.title, shown.index) == ("Most lost", 0)
    assert [(panel.name, panel.said, panel.verdict) for panel in shown.panels] == [
        ("truth", "1 bag, 1 shirt", ""),
        ("teacher", "1 bag, 1 shirt", "2 of 2 found"),
        ("int8", "7 dresses, 1 bag", "1 of 2 found, 7 wrong (5 drawn)"),
    ]
    of_truth, of_teacher, of_int8 = ([(mark.kind, mark.text) for mark in marks] for marks in drawn)
    assert of_truth == [("truth", "bag"), ("truth", "shirt")]
    assert of_teacher == [("right", "bag 88"), ("right", "shirt 50")]
    assert of_int8[0] == ("right", "bag 90") and of_int8[-1] == ("missed", "")
    assert [kind for kind, _ in of_int8[1:-1]] == ["wrong"] * 5 and drawn[2][-1].box == tuple(B)


@pytest.mark.parametrize(
    "label, many",
    [
        *(("bag", "bags"), ("dress", "dresses"), ("person", "people"), ("bus", "buses"), ("knife", "knives")),
        *(("wine glass", "wine glasses"), ("skis", "skis"), ("couch", "couches"), ("toothbrush", "toothbrushes")),
        *(("strawberry", "strawberries"), ("key", "keys"), ("sheep", "sheep"), ("Ankle boot", "Ankle boots")),
        *(("T-shirt/top", "T-shirt/top"), ("class_3", "class_3"), ("Straße", "Straße"), ("USB", "USB"), ("", "")),
        *(("鞋", "鞋"), ("x", "x")),
    ],
)
def test_plurals(label, many):
    assert plural(label) == many


def test_captions_are_short():
    assert listed([]) == "nothing"
    assert listed(["b", "a", "b"]) == "2 b, 1 a"
    assert listed(["aa", "bb", "cc", "dd"]) == "1 aa, 1 bb, 1 cc, 1 dd"
    assert listed([*"vvvwwx", "y", "z", "z"]) == "3 v, 2 w, 2 z, 2 others"
    assert verdict(held(found(), truth())) == ""
    assert verdict(held(found((A, 0, 0.5)), truth())) == "1 wrong"
