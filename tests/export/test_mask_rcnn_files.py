"""Files of Mask R-CNN: static graphs that suppress what is found, and give its masks."""

import numpy as np
import onnx
import pytest
import torch
from test_two_stage_files import LABELS, OPTIONS, SIDE, found, images, job_of

from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.formats import availability, build, open_runner, target
from kdcompress.models.build import build as network
from kdcompress.parity import compared
from kdcompress.pipelines.verdict import not_as_asked
from kdcompress.tasks import tasks

TASK, FOUND = tasks["instance-segmentation"], 48


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    net = network("maskrcnn/small-resnet10x1", len(LABELS), 3, {**OPTIONS, "depth": 2, "found": FOUND})
    rpn, box, mask = net.rpn.head, net.roi_heads.box_predictor, net.roi_heads.mask_predictor.mask_fcn_logits
    spreads = (rpn.cls_logits, 2, 0), (rpn.bbox_pred, 0.2, 0), (box.cls_score, 2, 0), (box.bbox_pred, 0.5, 0)
    spreads += ((mask, 0.4, 0.5),)  # of masks that are a half everywhere a rounding would change the pixels
    return job_of(net, TASK.name, spreads, tmp_path_factory.mktemp("mask-rcnn"))


@pytest.mark.slow
def test_the_graph_is_static_and_runs_at_any_batch(exported):
    job, expected = exported
    spec, model = job.parent.input, onnx.load(job.parent.path)
    assert [(out.name, out.shape) for out in spec.outputs] == [
        ("boxes", (FOUND, 4)),
        ("scores", (FOUND, 3)),
        ("masks", (FOUND, 28, 28)),
    ]
    kinds = {node.op_type for node in model.graph.node}
    assert "RoiAlign" in kinds and not kinds & {"NonMaxSuppression", "NonZero", "Loop", "If", "Scan"}
    each = list(TASK.found(expected, 0.3, (SIDE, SIDE)))
    filled = [mask.mean() for one in each for mask in one.masks]
    assert len(filled) > 30 and np.std(filled) > 0.05
    parity = compared(expected, found(job.parent), TASK.name, "fp32", spec.chosen)
    assert parity and parity.matched == 1
    with open_runner(job.parent) as runner:  # each image is answered for itself
        alone = runner.infer(spec.prepare(images(8, 2)[3:4]))
        both = runner.infer(spec.prepare(images(8, 2)[2:4]))
    for one, two in zip(alone, both, strict=True):
        np.testing.assert_allclose(one[0], two[1], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx-fp16", "openvino-fp32", "x86-vnni"])
def test_files_find_the_same(exported, name):
    job, expected = exported
    builds, _, why, _ = availability(target(name))
    if not builds:
        pytest.skip(why)
    artifact = build(job, target(name))
    assert not_as_asked(artifact.precision, artifact.provenance["coverage"]) is None
    parity = compared(expected, found(artifact), TASK.name, artifact.precision, artifact.input.chosen)
    # random weights are unlike a trained network's: int8 numbers choose other regions
    assert parity.passed if artifact.precision != "int8" else parity.matched > 0.4, parity.why


def test_masks_that_are_not_the_boxes_are_found_out(exported):
    job, (boxes, scores, masks) = exported
    for faulty in (masks[:, ::-1], masks.swapaxes(2, 3), 1 - masks):
        assert not compared((boxes, scores, masks), (boxes, scores, faulty), TASK.name, "fp32", True)


@pytest.mark.parametrize("name", ["litert-fp32", "ncnn-fp32", "mnn-fp32", "tensorrt-rtx"])
def test_formats_without_regions_refuse_it_at_once(exported, name):
    builds, _, why, _ = availability(target(name))
    if not builds:
        pytest.skip(why)
    with pytest.raises((UsageError, KDCompressError), match="second stage") as caught:
        build(exported[0], target(name))
    assert "yolact/BACKBONE" in str(caught.value) and "onnx" in str(caught.value)


def test_suppression_is_not_asked_for_twice(exported):
    fp16 = target("onnx-fp16")
    suppressing = fp16.model_copy(update={"name": "whole", "options": fp16.options.model_copy(update={"nms": "graph"})})
    with pytest.raises(UsageError, match="Only a detector's file"):
        build(exported[0], suppressing)
