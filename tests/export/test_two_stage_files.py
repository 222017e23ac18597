"""Files of two-stage detectors: static graphs, whose places are compared as sets."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import graph
from kdcompress.export.formats import ExportJob, availability, build, open_runner, target
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import answer_of, described, shipped
from kdcompress.models.build import build as network
from kdcompress.models.deployable import Deployable
from kdcompress.parity import compared, of_sets
from kdcompress.pipelines.preflight import settle
from kdcompress.runner import infer_all
from kdcompress.tasks import tasks
from kdcompress.tasks.detection import detections

SIDE, LABELS = 64, tuple("abc")
OPTIONS = {"width": 16, "levels": 3, "finest": 8, "hidden": 32, "proposals": 32}


def images(count, seed):
    rng = np.random.default_rng(seed)
    made = rng.normal(90, 20, (count, SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    for image in made:
        for left, top in rng.integers(0, SIDE - 20, (4, 2)):
            image[top : top + rng.integers(12, 40), left : left + rng.integers(12, 40)] = rng.integers(0, 256, 3)
    return made


def job_of(net, task, spreads, folder):
    """The job of a network whose answers are as sure and as unlike each other as a trained one's, and what PyTorch
    gives for eight images. ``spreads``: layers, with deviation and bias that their outputs get."""
    x = torch.from_numpy(images(16, 0)).permute(0, 3, 1, 2) / 127.5 - 1
    settle(net, x)
    net.eval()
    with torch.no_grad():
        for layer, spread, bias in spreads:
            seen = []
            nn.init.normal_(layer.weight), nn.init.zeros_(layer.bias)
            hook = layer.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out.flatten()))
            shipped(net(x))
            hook.remove()
            layer.weight.mul_(spread / torch.cat(seen).std())
            layer.bias.fill_(bias)
        outputs = described(answer_of(net(x)), tasks[task], LABELS)
    spec = InputSpec(SIDE, SIDE, 3, (0.5,) * 3, (0.5,) * 3, LABELS, task=task, outputs=outputs)
    module = Deployable(net, spec).eval()
    job = ExportJob(module, export_onnx(module, spec, folder / "student.onnx"), images(16, 1), folder, "student")
    with TorchRunner(module, spec) as runner:
        return job, infer_all(runner, images(8, 2), spec)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    net = network("fasterrcnn/small-resnet10x1", len(LABELS), 3, OPTIONS)
    rpn, box = net.rpn.head, net.roi_heads.box_predictor
    spreads = (rpn.cls_logits, 2, 0), (rpn.bbox_pred, 0.2, 0), (box.cls_score, 2, 0), (box.bbox_pred, 0.5, 0)
    return job_of(net, "detection", spreads, tmp_path_factory.mktemp("two-stage"))


def found(artifact):
    with open_runner(artifact) as runner:
        return infer_all(runner, images(8, 2), artifact.input)


def test_the_graph_is_static_and_runs_at_any_batch(exported):
    job, expected = exported
    spec, model = job.parent.input, onnx.load(job.parent.path)
    assert [(out.name, out.shape, out.chosen) for out in spec.outputs] == [
        ("boxes", (64, 4), True),
        ("scores", (64, 3), True),
    ]
    kinds = {node.op_type for node in model.graph.node}
    assert "RoiAlign" in kinds and not kinds & {"NonMaxSuppression", "NonZero", "Loop", "If", "Scan"}
    assert sum(map(len, detections(expected, 0.3))) > 30
    parity = compared(expected, found(job.parent), "detection", "fp32", spec.chosen)
    assert parity and parity.matched == 1
    with open_runner(job.parent) as runner:  # each image is answered for itself
        alone = runner.infer(spec.prepare(images(8, 2)[3:4]))
        both = runner.infer(spec.prepare(images(8, 2)[2:4]))
    for one, two in zip(alone, both, strict=True):
        np.testing.assert_allclose(one[0], two[1], atol=1e-3)


@pytest.mark.parametrize("name", ["onnx-fp16", pytest.param("openvino-fp32", marks=pytest.mark.slow)])
def test_files_find_the_same(exported, name):
    job, expected = exported
    builds, _, why, _ = availability(target(name))
    if not builds:
        pytest.skip(why)
    artifact = build(job, target(name))
    parity = compared(expected, found(artifact), "detection", artifact.precision, artifact.input.chosen)
    assert parity, parity.why


def test_an_fp16_file_gives_floats_and_can_suppress_by_itself(exported):
    job, expected = exported
    fp16 = target("onnx-fp16")
    suppressing = fp16.model_copy(update={"name": "whole", "options": fp16.options.model_copy(update={"nms": "graph"})})
    for each in (fp16, suppressing):
        artifact = build(job, each)
        kinds = {output.type.tensor_type.elem_type for output in onnx.load(artifact.path).graph.output}
        assert kinds == {onnx.TensorProto.FLOAT}
    parity = compared(expected, found(artifact), "detection", "fp16", artifact.input.chosen)
    assert parity and len(artifact.input.outputs) == 3


def test_what_makes_regions_and_boxes_stays_float_in_int8(exported):
    job, expected = exported
    artifact = build(job, target("x86-vnni"))
    layers = artifact.provenance["coverage"]
    assert layers["gemm"] == {"int8": 4, "fp16": 0, "fp32": 0} and layers["conv"]["fp32"] == 0
    model = graph.load(artifact.path)
    maker = {name: node.op_type for node in model.graph.node for name in node.output}
    kept = {"Exp", "TopK", "Sigmoid", "ReduceMax", "Softmax", "Log"}
    read = {
        maker.get(name)
        for node in model.graph.node
        if node.op_type in kept - {"TopK", "Sigmoid"}
        for name in node.input
    }
    assert "DequantizeLinear" not in read
    # 6 % where regions are made of int8 numbers; these weights are random, and unlike a trained network's
    assert compared(expected, found(artifact), "detection", "int8", True).matched > 0.5


def test_sets_are_compared_row_by_row_in_any_order():
    rng = np.random.default_rng(0)
    boxes, scores = rng.uniform(0, 64, (2, 100, 4)), rng.uniform(0, 1, (2, 100, 3))
    order = rng.permutation(100)
    assert max(each.max() for each in of_sets((boxes, scores), (boxes[:, order], scores[:, order]))) == 0
    moved = boxes[:, order].copy()
    moved[:, :4] += 30  # four in a hundred have changed
    few = of_sets((boxes, scores), (moved, scores[:, order]))
    assert [each.shape for each in few] == [(2, 95, 4), (2, 95, 3)] and max(each.max() for each in few) == 0
    moved[:, :10] += 30
    assert of_sets((boxes, scores), (moved, scores[:, order]))[0].max() > 1
    paired = of_sets((boxes, scores), (boxes[:, order], scores))  # each box with another's scores
    assert max(each.max() for each in paired) > 0.1


def test_parity_of_sets_fails_where_numbers_do(exported):
    job, (boxes, scores) = exported
    order = np.random.default_rng(0).permutation(boxes.shape[1])
    assert compared((boxes, scores), (boxes[:, order], scores[:, order]), "detection", "fp32", True)
    assert not compared((boxes, scores), (boxes[:, order], scores[:, order]), "detection", "fp32")
    wrong = compared((boxes, scores), (boxes[:, order] + 0.1, scores[:, order]), "detection", "fp32", True)
    assert not wrong and "of the largest" in wrong.why


def test_the_order_of_rows_is_kept_in_the_file(exported):
    job, _ = exported
    stored = InputSpec.from_json({**graph_input(job), "layout": "uint8-nhwc"})
    assert stored.chosen and stored == job.parent.input
    assert not replace(stored, outputs=tuple(replace(out, chosen=False) for out in stored.outputs)).chosen


def graph_input(job):
    import json

    return json.loads(graph.metadata(graph.load(job.parent.path))["kdcompress.input"])


@pytest.mark.parametrize("name", ["litert-fp32", "android-xnnpack", "ncnn-fp32", "mnn-fp32", "tensorrt-rtx"])
def test_formats_without_regions_refuse_it_at_once(exported, name):
    builds, _, why, _ = availability(target(name))
    if not builds:
        pytest.skip(why)
    with pytest.raises((UsageError, KDCompressError), match="second stage") as caught:
        build(exported[0], target(name))
    assert "fcos/BACKBONE" in str(caught.value) and "onnx" in str(caught.value)
