"""Average precision by hand and against pycocotools."""

import contextlib
import io
import sys

import numpy as np
import pytest

from kdcompress.average_precision import average_precision
from kdcompress.boxes import Detections, suppressed
from kdcompress.errors import RuntimeMissingError

FIGURES = ("ap", "ap50", "ap75", "small", "medium", "large")


def detections(*found):
    """Of (x1, y1, x2, y2, label, score) each."""
    rows = np.array(found, np.float64).reshape(-1, 6)
    return Detections(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.int64), rows[:, 5].astype(np.float32))


def truth(*images):
    """Padded to the same number of rows."""
    most = max(map(len, images), default=0)
    filled = np.zeros((len(images), most, 6), np.float32)
    for place, rows in enumerate(images):
        filled[place, : len(rows)] = np.array(rows, np.float32).reshape(-1, 6)
    return filled


def made(seed, images=30, labels=4):
    """Objects of all sizes, some of them crowds, and detections near them, beside them and of other labels."""
    rng = np.random.default_rng(seed)
    found, real = [], []
    for _ in range(images):
        count = rng.integers(0, 7)
        corner, size = rng.uniform(0, 200, (count, 2)), np.exp(rng.uniform(np.log(8), np.log(200), (count, 2)))
        kinds, names = rng.choice([1, 1, 1, 1, 2], count), rng.integers(0, labels - 1, count)  # none of the last
        objects = np.column_stack([corner, corner + size, names, kinds])
        near = np.repeat(objects, 40, 0)
        boxes = near[:, :4] + rng.normal(0, 0.15, (len(near), 4)) * np.tile(near[:, 2:4] - near[:, :2], 2)
        stray = rng.uniform(0, 200, (50, 2))
        boxes = np.concatenate([boxes, np.concatenate([stray, stray + rng.uniform(5, 90, (50, 2))], 1)])
        scores = rng.beta(0.5, 4, (len(boxes), labels))
        scores[np.arange(len(near)), near[:, 4].astype(int)] += rng.uniform(0, 0.5, len(near))
        found.append(suppressed(boxes.astype(np.float32), np.round(scores, 2).astype(np.float32)))  # with ties
        real.append(objects)
    return found, truth(*real)


def by_pycocotools(found, truth, labels):
    """(the six figures, the average precision of each label, the precision at an overlap of 0.5), 0 to 1, -1: none."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for image, rows in enumerate(truth.astype(float)):
        for x1, y1, x2, y2, label, kind in rows[rows[:, 5] > 0]:
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": int(label) + 1}
            entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(kind == 2)}
            annotations.append(entry)
        each = found[image]
        for (x1, y1, x2, y2), label, score in zip(each.boxes.tolist(), each.labels.tolist(), each.scores.tolist()):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image + 1, "category_id": label + 1, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(len(found))],
            "categories": [{"id": k + 1, "name": str(k)} for k in range(labels)],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][..., -1]
    each = [precision[:, :, k, 0] for k in range(labels)]
    return judge.stats[:6], [p[p > -1].mean() if (p > -1).any() else -1 for p in each], precision[0, :, :, 0].T


def in_hundredths(value):
    return -1 if value is None else value / 100


@pytest.mark.parametrize("seed", range(3))
def test_all_figures_are_pycocotools(seed):
    found, real = made(seed)
    ours = average_precision(found, real, 4)
    figures, each, precision = by_pycocotools(found, real, 4)
    assert [in_hundredths(getattr(ours, name)) for name in FIGURES] == pytest.approx(list(figures), abs=1e-6)
    assert 0 < figures[0] < figures[1] < 1 and all(figures[3:] > 0)
    assert [in_hundredths(value) for value in ours.by_label] == pytest.approx(each, abs=1e-6)
    assert np.allclose(np.nan_to_num(ours.precision, nan=-1), precision, atol=1e-6)
    assert ours.by_label[3] is None and np.isnan(ours.precision[3]).all() and ours.objects[3] == 0
    assert ours.recalls.tolist() == pytest.approx([i / 100 for i in range(101)])


def test_by_hand():
    # Of two objects one is found at once, the other after a false alarm: precision 1 to recall 0.5, then 2 / 3.
    real = truth([(0, 0, 20, 20, 0, 1), (40, 40, 60, 60, 0, 1)])
    found = detections((0, 0, 20, 20, 0, 0.9), (80, 80, 90, 90, 0, 0.8), (40, 40, 60, 60, 0, 0.7))
    ours = average_precision([found], real, 1)
    expected = 100 * (51 * 1 + 50 * 2 / 3) / 101
    assert (ours.ap, ours.ap50, ours.ap75, ours.small) == pytest.approx((expected,) * 4)
    assert ours.medium is None and ours.large is None and ours.objects == (2,)
    assert ours.precision[0].tolist() == pytest.approx([1] * 51 + [2 / 3] * 50)


def test_an_overlap_of_less_than_75_counts_at_the_lower_ones_alone():
    real, found = truth([(0, 0, 10, 10, 0, 1)]), detections((0, 0, 10, 7.2, 0, 0.9))  # 0.72: 0.5 to 0.7, 5 of 10
    ours = average_precision([found], real, 1)
    assert (ours.ap, ours.ap50, ours.ap75) == pytest.approx((50, 100, 0))


def test_sizes_are_of_boxes_in_pixels():
    real = truth([(0, 0, 20, 20, 0, 1), (100, 0, 150, 50, 0, 1), (0, 100, 120, 220, 1, 1)])
    found = detections((0, 0, 20, 20, 0, 0.9), (0, 100, 120, 220, 1, 0.9))
    ours = average_precision([found], real, 2)
    assert (ours.small, ours.medium, ours.large) == pytest.approx((100, 0, 100))


def test_what_lies_on_a_crowd_counts_neither_way():
    real = truth([(0, 0, 20, 20, 0, 1), (50, 50, 150, 150, 0, 2)])
    found = detections((60, 60, 80, 80, 0, 0.99), (90, 90, 110, 110, 0, 0.98), (0, 0, 20, 20, 0, 0.5))
    ours = average_precision([found], real, 1)
    assert ours.ap == pytest.approx(100) and ours.objects == (1,)


def test_labels_are_averaged_and_those_without_objects_left_out():
    real = truth([(0, 0, 20, 20, 0, 1), (40, 40, 60, 60, 2, 1)], [])
    ours = average_precision([detections((0, 0, 20, 20, 0, 0.9)), detections((0, 0, 9, 9, 1, 0.9))], real, 3)
    assert ours.by_label == (pytest.approx(100), None, pytest.approx(0)) and ours.ap == pytest.approx(50)


def test_a_hundred_detections_an_image_count():
    boxes = [(20 * i, 0, 20 * i + 10, 10, 0, 1 - i / 1000) for i in range(101)]
    real = truth([(2000, 0, 2010, 10, 0, 1)])  # the 101st
    assert average_precision([detections(*boxes)], real, 1).ap == 0
    assert average_precision([detections(*boxes[1:])], real, 1).ap > 0


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_to_find_is_none_and_nothing_found_is_0(rows):
    empty = np.zeros((2, rows, 6), np.float32)
    for found in (detections(), detections((0, 0, 9, 9, 0, 0.9))):
        ours = average_precision([found, found], empty, 2)
        assert [getattr(ours, name) for name in FIGURES] == [None] * 6 and ours.by_label == (None, None)
    real = truth([(0, 0, 20, 20, 0, 1)], [])
    assert average_precision([detections(), detections()], real, 2).ap == 0


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="1 images with detections, 2 with truth"):
        average_precision([detections()], np.zeros((2, 0, 6), np.float32), 1)
    with pytest.raises(ValueError, match="labels are 0 to 1, not 2 to 2"):
        average_precision([detections((0, 0, 9, 9, 2, 0.9))], np.zeros((1, 0, 6), np.float32), 2)
    with pytest.raises(ValueError, match="labels are 0 to 1, not -1 to 0"):
        average_precision([detections((0, 0, 9, 9, 0, 0.9))], truth([(0, 0, 9, 9, -1, 1)]), 2)


@pytest.mark.filterwarnings("error")
def test_a_box_that_is_inside_out_or_not_a_number_is_a_false_alarm():
    real = truth([(0, 0, 20, 20, 0, 1)])
    for wrong in ((20, 20, 0, 0), (np.nan, 0, 20, 20), (0, 0, 0, 0)):
        ours = average_precision([detections((*wrong, 0, 0.9), (0, 0, 20, 20, 0, 0.8))], real, 1)
        assert ours.ap == pytest.approx(50), wrong


def test_nothing_is_printed_or_logged(capfd, caplog):
    caplog.set_level(0)
    found, real = made(0, images=3)
    before = real.copy()
    average_precision(found, real, 4)
    assert capfd.readouterr() == ("", "") and not caplog.records and np.array_equal(real, before)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(RuntimeMissingError, match="Average precision") as caught:
        average_precision([], np.zeros((0, 0, 6), np.float32), 1)
    assert "kdcompress[detection]" in str(caught.value)
