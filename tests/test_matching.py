"""What two files find the same, by hand."""

import numpy as np
import pytest

from kdcompress.boxes import Detections, suppressed
from kdcompress.matching import f1, matched


def detections(*found):
    """Of (x1, y1, x2, y2, label, score) each."""
    rows = np.array(found, np.float64).reshape(-1, 6)
    return Detections(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.int64), rows[:, 5].astype(np.float32))


A = (0, 0, 10, 10)


def test_each_has_one_partner_of_its_label_that_it_overlaps_most():
    mine = detections((*A, 0, 0.9), (0, 0, 10, 9, 0, 0.8), (50, 50, 60, 60, 1, 0.7))
    theirs = detections((0, 0, 10, 9, 0, 0.9), (*A, 0, 0.6), (50, 50, 60, 60, 2, 0.5), (0, 0, 10, 6, 0, 0.4))
    found = matched(mine, theirs)
    assert found.pairs.tolist() == [[0, 1], [1, 0]] and found.alone == (1, 2)
    assert f1([found]) == pytest.approx(4 / 7)
    assert f1([found, matched(mine, mine)]) == pytest.approx(10 / 13)


def test_a_pair_overlaps_by_at_least_the_limit():
    mine, half, less = detections((*A, 0, 0.9)), detections((0, 0, 10, 5, 0, 0.9)), detections((0, 0, 10, 4.9, 0, 0.9))
    assert matched(mine, half).alone == (0, 0) and matched(mine, less).alone == (1, 1)
    assert matched(mine, half, overlap=0.6).alone == (1, 1)
    apart = detections((20, 20, 30, 30, 0, 0.9))
    assert matched(mine, apart, overlap=0.0).alone == (1, 1)  # what does not touch is no pair


def test_the_best_score_chooses_first():
    mine = detections((0, 0, 10, 8, 0, 0.9), (*A, 0, 0.8))
    assert matched(mine, detections((*A, 0, 0.5))).pairs.tolist() == [[0, 0]]


def test_a_score_near_the_threshold_is_a_tie():
    mine, none = detections((*A, 0, 0.9), (30, 30, 40, 40, 0, 0.055)), detections()
    assert matched(mine, none).alone == (2, 0)
    assert matched(mine, none, tolerance=0.01).alone == (1, 0)
    assert matched(none, mine, tolerance=0.01).alone == (0, 1)
    assert matched(mine, none, tolerance=0.001).alone == (2, 0)
    assert f1([matched(mine, detections((*A, 0, 0.9)), tolerance=0.01)]) == 1


def test_a_file_that_is_full_had_its_lowest_score_as_threshold():
    mine = detections((*A, 0, 0.9), (30, 30, 40, 40, 0, 0.52))
    theirs = detections((*A, 0, 0.9), (60, 60, 70, 70, 0, 0.51))
    assert matched(mine, theirs, tolerance=0.02).alone == (1, 1)
    assert matched(mine, theirs, tolerance=0.02, most=2).alone == (0, 0)
    assert matched(mine, theirs, tolerance=0.005, most=2).alone == (1, 0)


def test_a_box_without_an_area_is_not_alone():
    """A detector's boxes beyond the border are cut to lines: in both files, and yet no pair of them overlaps."""
    mine = detections((*A, 0, 0.9), (10, 0, 10, 8, 0, 0.8), (3, 3, 2, 9, 1, 0.7))
    assert matched(mine, mine).pairs.tolist() == [[0, 0]] and matched(mine, mine).alone == (0, 0)
    assert f1([matched(mine, mine)]) == 1


def test_nothing_and_nothing_agree():
    assert f1([]) == 1 and f1([matched(detections(), detections())]) == 1
    assert f1([matched(detections((*A, 0, 0.9)), detections())]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_file_agrees_with_itself_and_with_a_little_noise(seed):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 60, (300, 2))
    boxes = np.concatenate([boxes, boxes + rng.uniform(5, 40, (300, 2))], 1).astype(np.float32)
    scores = rng.beta(0.4, 3, (300, 4)).astype(np.float32)
    mine = suppressed(boxes, scores)
    itself = matched(mine, mine)
    assert itself.pairs.tolist() == [[i, i] for i in range(len(mine))] and f1([itself]) == 1
    noisy = suppressed(boxes + rng.normal(0, 1e-3, boxes.shape), scores + rng.uniform(-1e-3, 1e-3, scores.shape))
    assert f1([matched(mine, noisy, tolerance=2e-3)]) > 0.97
