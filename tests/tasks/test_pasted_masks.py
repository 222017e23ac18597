"""Masks whose cells fill their boxes, as Mask R-CNN gives them: told by the outputs, judged as all others."""

import numpy as np
import pytest
import torch
from test_instances import IMAGES, LABELS, SIDE, scenes
from torchvision.ops import roi_align

from kdcompress.errors import UsageError
from kdcompress.parity import compared
from kdcompress.segments import Combined, Pasted, mask_iou, segmented, way_of
from kdcompress.tasks import tasks

TASK = tasks["instance-segmentation"]


@pytest.fixture(scope="module")
def some():
    """The scenes of test_instances, and outputs of 28 x 28 cells that hold what is in each place's box."""
    truth, (boxes, scores, *_) = scenes(1)
    masks = np.zeros((IMAGES, 12, 28, 28), np.float32)
    for i, drawn in enumerate(truth.drawn()):
        for place in range(12):
            mask, box = torch.from_numpy(drawn[place // 3].astype(np.float32)), torch.from_numpy(boxes[i, place])
            row = torch.cat([torch.zeros(1), box])[None]
            masks[i, place] = roi_align(mask[None, None], row, 28, aligned=True)[0, 0].numpy()
    return truth, (boxes, scores, masks)


def test_the_outputs_tell_how_masks_are_made():
    assert isinstance(way_of([(7, 4), (7, 3), (7, 5), (5, 16, 16)]), Combined)
    assert isinstance(way_of([(7, 4), (7, 3), (7, 28, 28)]), Pasted)
    for wrong in ([(7, 4), (7, 3)], [(7, 4), (7, 3), (6, 28, 28)], [(7, 4), (7, 3), (7, 5), (6, 16, 16)], []):
        assert way_of(wrong) is None
    found = TASK.outputs(LABELS, [(7, 4), (7, 3), (7, 28, 28)])
    assert [(each.name, each.shape) for each in found][2:] == [("masks", (7, 28, 28))]
    with pytest.raises(UsageError, match="gives no masks") as caught:
        TASK.outputs(LABELS, [(7, 4), (7, 3), (6, 28, 28)])
    assert "prototypes [N, C, h, w], or masks [N, P, h, w]" in str(caught.value)
    with pytest.raises(ValueError, match="no outputs of a segmenter"):
        segmented(np.zeros((7, 4)), np.zeros((7, 3)))


def test_they_are_scored_as_others(some):
    truth, outputs = some
    kept = TASK.kept(outputs, (SIDE, SIDE))
    answers = TASK.answers(kept)
    assert TASK.score(kept, truth) > 50 and TASK.agreement(answers, answers) == 100
    assert (answers["size"] == SIDE).all()
    for each, whole in zip(TASK.unpacked(answers, 0.3), TASK.found(outputs, 0.3, (SIDE, SIDE)), strict=True):
        assert (each.masks == whole.masks).all() and each.masks.shape[1:] == (SIDE, SIDE)
    pictures = TASK.pictures(np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8), truth, {"student": answers}, LABELS)
    assert pictures.shown
    assert TASK.seen(np.zeros((SIDE, SIDE, 3), np.uint8), [each[:1] for each in outputs], LABELS).image


FAULTS = {
    "cells turned": lambda masks: masks.swapaxes(2, 3)[..., ::-1] * np.linspace(0, 1, 28, dtype=np.float32),
    "masks of other places": lambda masks: np.roll(masks, 3, 1),
    "cells upside down and half": lambda masks: masks[:, :, ::-1] * (np.arange(28) < 14).astype(np.float32),
    "what is outside": lambda masks: 1 - masks,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_this_fault_is_not_its_network(fault, some):
    truth, (boxes, scores, masks) = some
    faulty = boxes, scores, FAULTS[fault](masks)
    assert compared((boxes, scores, masks), (boxes, scores, masks), TASK.name)
    assert not compared((boxes, scores, masks), faulty, TASK.name)
    score = TASK.score(TASK.kept(some[1], (SIDE, SIDE)), truth)
    assert TASK.score(TASK.kept(faulty, (SIDE, SIDE)), truth) < score - 10


def test_an_image_of_unknown_size_is_as_large_as_its_boxes_need(some):
    _, outputs = some
    one = [each[0] for each in outputs]
    whole, least = segmented(*one, size=(SIDE, SIDE)), segmented(*one)
    height, width = least.masks.shape[1:]
    assert (height, width) == tuple(int(np.ceil(whole.boxes[:, side].max())) for side in (3, 2))
    assert (whole.masks[:, :height, :width] == least.masks).all()
    np.testing.assert_allclose(mask_iou(whole.masks, least.masks).diagonal(), 1, atol=0.05)
    broken = [one[0] * np.float32(1e6), *one[1:]]
    assert segmented(*broken).masks.shape[1:] <= (4096, 4096)


def test_what_a_bundle_expects_has_the_image_s_size(some):
    _, outputs = some
    expected = TASK.expected([each[:1] for each in outputs], "fp32", (SIDE, SIDE))
    (found,) = TASK.found([each[:1] for each in outputs], expected["score"], (SIDE, SIDE))
    assert len(found) == len(expected["detections"]) > 0
    for row, mask in zip(expected["detections"], found.masks, strict=True):
        assert (np.repeat(np.arange(len(row["mask"])) % 2 == 1, row["mask"]).reshape(SIDE, SIDE) == mask).all()
