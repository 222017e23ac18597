"""AP of resampled images against that of the images themselves, there as often."""

import numpy as np
import pytest
from test_average_precision import detections, made, truth

from kdcompress.average_precision import average_precision
from kdcompress.boxes import Detections
from kdcompress.data.outlined import Outlined, codes
from kdcompress.intervals import weights
from kdcompress.resampled_precision import RECALLS, _reached, hits, precision


def without_ties(found):
    """Copies of an image lie beside each other when it is weighed, and not when it is copied: scores that are alike
    would be in another order."""
    rng = np.random.default_rng(0)
    shaken = []
    for each in found:
        scores = (each.scores + rng.uniform(0, 1e-3, len(each))).astype(np.float32)
        order = np.argsort(-scores)
        shaken.append(Detections(each.boxes[order], each.labels[order], scores[order]))
    return shaken


@pytest.mark.parametrize("seed", range(3))
def test_once_each_is_the_ap(seed):
    """With crowds, ties, and objects of all sizes."""
    found, real = made(seed)
    expected = average_precision(found, real, 4).ap
    assert 10 < expected < 60
    assert precision(hits(found, real), np.ones((2, len(found)), int)) == pytest.approx([expected] * 2, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_images_that_are_there_twice_or_never(seed):
    found, real = made(seed)
    found, drawn = without_ties(found), weights(len(found), seed)[:6]
    places = [np.repeat(np.arange(len(found)), row) for row in drawn]
    expected = [average_precision([found[i] for i in place], real[place], 4).ap for place in places]
    assert np.ptp(expected) > 1
    assert precision(hits(found, real), drawn) == pytest.approx(expected, abs=1e-9)


def test_masks_overlap_as_masks():
    """The box is the object's, the mask half of it: an overlap of 0.5."""
    real = truth(*[[(0, 0, 16, 16, 0, 1)]] * 2)
    whole, half = np.zeros((2, 1, 16, 16), bool)
    whole[:], half[:, :8] = True, True
    outlined = Outlined.of(real, codes(np.concatenate([whole, whole])), (16, 16))
    found = [detections((0, 0, 16, 16, 0, 0.9))] * 2
    masks = [codes(whole), codes(half)]
    once = np.array([[1, 1], [2, 0], [0, 2]])
    expected = [average_precision([found[0]] * 2, outlined, 1, [masks[i] for i in pair]).ap for pair in
                ((0, 1), (0, 0), (1, 1))]  # fmt: skip
    assert precision(hits(found, outlined, masks), once) == pytest.approx(expected, abs=1e-9)
    assert expected[1:] == pytest.approx([100, 10])


def test_labels_without_objects_in_a_resample_do_not_count():
    real = truth([(0, 0, 20, 20, 0, 1)], [(0, 0, 20, 20, 1, 1)], [])
    found = [detections((0, 0, 20, 20, 0, 0.9)), detections(), detections((0, 0, 9, 9, 3, 0.5))]
    drawn = np.array([[1, 1, 1], [2, 0, 1], [0, 1, 2], [0, 0, 3], [1, 3, 0]])
    assert precision(hits(found, real), drawn) == pytest.approx([50, 100, 0, 0, 50])


def test_a_recall_that_is_one_of_the_101_is_reached_as_it_is_in_coco():
    for objects in (1, 3, 7, 29, 50, 100, 101, 700):
        recall = np.arange(objects + 1) / objects
        assert np.array_equal(_reached(recall), np.searchsorted(RECALLS, recall, side="right"))
