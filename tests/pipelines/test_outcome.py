"""What a run's document has of its files' answers: which are compared, and how long answers take."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kdcompress.intervals import tango, wilson
from kdcompress.pipelines.answering import answer_ms
from kdcompress.pipelines.outcome import Outcome
from kdcompress.pipelines.steps.check import ANSWERS
from kdcompress.pipelines.steps.names import checked
from kdcompress.report.rows import Row
from kdcompress.tasks import tasks

LABELS = ("bag", "shirt")


def row(role, target=None, precision="fp32", status="measured", score=50.0, median=1.0):
    name = f"{role}-{target or 'fp32'}"
    return Row(name, role, "onnx", precision, status, target=target, score=score, latency={"median_ms": median})


ROWS = [
    row("teacher"),
    row("student"),
    row("student", "openvino-fp32"),
    row("student", "x86-avx2", "int8", median=0.5),
    row("student", "x86-vnni", "int8", median=0.3),
    row("student", "broken", "int8", "failed", median=0.1),
]


def outcome(folder, name="detection", public=None, shape=(100, 6)):
    truth = np.zeros((3, 1, 6), np.float32)
    truth[:, 0] = [2, 2, 20, 20, 1, 1]
    answers = np.zeros((3, *shape), np.float32)
    answers[:, 0] = [2, 2, 20, 20, 1, 0.9]
    if name == "classification":
        truth, answers = np.array([0, 1, 1]), np.array([0, 1, 0], np.int32)
    done = {}
    for each in ROWS:
        (folder / each.name).mkdir()
        np.save(folder / each.name / ANSWERS, answers)
        done[checked(each.role, each.target)] = SimpleNamespace(folder=folder / each.name)
    images = np.zeros((3, 32, 32, 3), np.uint8)
    networks = SimpleNamespace(
        task=tasks[name],
        recipe=SimpleNamespace(data=SimpleNamespace(public=public)),
        source=SimpleNamespace(labels=LABELS, test=SimpleNamespace(images=images, truth=truth)),
    )
    return Outcome(networks, done, {})


NAMES = ["teacher-fp32", "student-fp32", "student-x86-vnni"]


def test_the_fp32_files_and_the_fastest_int8_file_are_compared(tmp_path):
    found = outcome(tmp_path)
    assert list(found._compared(ROWS)) == NAMES
    assert list(found._compared([*ROWS[:3], ROWS[5]])) == [*NAMES[:2], "student-broken"]  # none ships
    assert list(found._compared([*ROWS[:3]])) == NAMES[:2]
    assert [line["name"] for line in found._curves(ROWS)["lines"]] == NAMES
    shown = found._pictures(ROWS)
    panels = shown["shown"][0]["panels"]
    assert [panel["name"] for panel in panels] == ["truth", *NAMES]
    assert {panel["said"] for panel in panels} == {"1 shirt"}
    assert found._confusion()["student"] == [[0, 0, 0], [0, 3, 0], [0, 0, 0]]
    json.dumps([shown, found._curves(ROWS), found._confusion()])


def test_a_file_that_was_not_scored_is_not_compared(tmp_path):
    rows = [row("teacher", score=None), *ROWS[1:]]
    assert list(outcome(tmp_path)._compared(rows)) == NAMES[1:]


def test_private_images_are_not_shown(tmp_path):
    assert outcome(tmp_path, public=0.2)._pictures(ROWS) is None


def test_a_classifier_has_confusions_alone(tmp_path):
    found = outcome(tmp_path, "classification")
    assert found._pictures(ROWS) is None and found._curves(ROWS) is None
    both = {"teacher": [[1, 0], [1, 1]], "student": [[1, 0], [1, 1]]}
    assert found._confusion() == {"labels": list(LABELS), **both, "of": "test images", "note": ""}


def test_rows_have_intervals_of_what_answers_there_are(tmp_path):
    """Two of three images are right for each file, the same ones."""
    found = outcome(tmp_path, "classification")
    rows = [replace(each, score=200 / 3) for each in ROWS] + [row("student", "elsewhere", score=None)]
    found._add_intervals(rows)
    teacher, student, *files, unknown = rows
    assert (teacher.score_low, teacher.score_high) == wilson(2, 3) and teacher.images == 3
    assert teacher.drop_to_teacher is teacher.drop_to_parent is student.drop_to_parent is unknown.score_low is None
    both = [student.drop_to_teacher, *(each.drop_to_parent for each in files), *(f.drop_to_teacher for f in files)]
    low, high = tango(0, 0, 3)
    same = {"points": 0.0, "low": low, "high": high, "verdict": "no difference shown", "images": 3}
    assert both == [same] * 9
    json.dumps([each.to_json() for each in rows])


def test_of_a_few_scenes_no_interval_is_known(tmp_path):
    rows = [replace(each) for each in ROWS]
    outcome(tmp_path)._add_intervals(rows)
    assert {each.score_low for each in rows} == {None} and rows[2].drop_to_parent is None


def test_what_answers_take_is_the_median_of_single_images(monkeypatch):
    """By a clock that a call moves on by as many milliseconds as its image's number."""
    now, sizes = [0.0], []

    def kept(outputs, size):
        sizes.append([len(each) for each in outputs])
        now[0] += outputs[0][0, 0] / 1e3
        return outputs

    monkeypatch.setattr("kdcompress.pipelines.answering.time.perf_counter", lambda: now[0])
    task = SimpleNamespace(kept=kept, answers=lambda outputs: outputs[0])
    outputs = (np.array([[9.0], [1], [5], [2], [3]]), np.zeros((5, 2)))
    assert answer_ms(task, outputs) == pytest.approx(3)
    assert all(size == [1, 1] for size in sizes) and len(sizes) == 6  # one to warm up


def test_suppression_takes_time():
    random = np.random.default_rng(0)
    corners = random.random((4, 60, 2)).astype(np.float32) * 100
    boxes = np.concatenate([corners, corners + 10], -1)
    assert 0 < answer_ms(tasks["detection"], (boxes, random.random((4, 60, 2)).astype(np.float32))) < 1000
