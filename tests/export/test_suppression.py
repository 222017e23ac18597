"""Suppression inside a detector's file: what it finds is what `boxes.suppressed` finds of the same outputs."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.errors import UsageError
from kdcompress.export.describe import artifact_of
from kdcompress.export.formats import ExportJob, Options, availability, build, load_target, open_runner, target
from kdcompress.export.suppression import WITHOUT, inside
from kdcompress.export.tensorrt_builder import engine_source
from kdcompress.parity import compared
from kdcompress.runner import infer_all
from kdcompress.tasks import tasks
from kdcompress.tasks.detection import detections

TASK, SIDE, PLACES, LABELS = tasks["detection"], 16, 40, ("ant", "bee", "cat")
IMAGES = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)
IMAGES[3] = 0  # nothing is found in it


@pytest.fixture
def parent(tmp_path):
    """Two convolutions whose answers are boxes around points, many over each other, and scores."""
    rng, helper, numpy_helper = np.random.default_rng(0), onnx.helper, onnx.numpy_helper
    values = {
        "w1": rng.normal(0, 1, (8, 3, 4, 4)).astype(np.float32),
        "w2": rng.normal(0, 0.4, (PLACES * 3, 8, 4, 4)).astype(np.float32),
        "unit": np.float32(1 / 255),
        "bias": np.float32(-4),
        "shape": np.array([0, PLACES, 3], np.int64),
        "none": np.array(0, np.float32),
        "anchors": np.concatenate([a := rng.uniform(0, 8, (1, PLACES, 2)), a + rng.uniform(4, 8, a.shape)], 2).astype(
            "f"
        ),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "unit"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "w1"], ["c1"], strides=[4, 4], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second"),
        helper.make_node("Reshape", ["c2", "shape"], ["logits"]),
        helper.make_node("Add", ["logits", "bias"], ["moved"]),
        helper.make_node("Sigmoid", ["moved"], ["scores"]),
        helper.make_node("ReduceMean", ["logits", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "anchors"], ["boxes"]),
    ]
    values["axes"] = np.array([2], np.int64)
    for node in nodes:
        node.name = node.name or f"make_{node.output[0]}"
    shapes = {"boxes": ["batch", PLACES, 4], "scores": ["batch", PLACES, 3]}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    outputs = TASK.outputs(LABELS, [(PLACES, 4), (PLACES, 3)])
    spec = InputSpec(SIDE, SIDE, 3, (0.0,) * 3, (1.0,) * 3, LABELS, outputs=outputs, task="detection")
    onnx.save(model, tmp_path / "student.onnx")
    return Artifact.of(tmp_path / "student.onnx", "onnx", "fp32", spec)


def job_of(parent, folder):
    return ExportJob(None, parent, IMAGES, folder, "student")


def outputs_of(artifact, images=IMAGES):
    with open_runner(artifact) as runner:
        return infer_all(runner, images, artifact.input)


def inside_of(name):
    known = target(name)
    return known.model_copy(update={"options": known.options.model_copy(update={"nms": "graph"})})


def test_each_image_has_its_best_and_zeros_behind_them(parent, tmp_path):
    expected = [each for each in detections(outputs_of(parent), 0.05)]
    assert min(map(len, (*expected[:3], *expected[4:]))) > 3 and len(expected[3]) == 0
    with inside(parent, tmp_path, "x") as whole:
        assert artifact_of(whole.path).input == whole.input
        boxes, scores, labels = outputs_of(whole)
        single = outputs_of(whole, IMAGES[2:3])
    assert boxes.shape == (6, 100, 4) and scores.shape == labels.shape == (6, 100)
    assert all(np.array_equal(one[2:3], other) for one, other in zip((boxes, scores, labels), single, strict=True))
    for i, found in enumerate(expected):
        n = len(found)
        assert np.allclose(scores[i, :n], found.scores, atol=1e-6) and np.allclose(boxes[i, :n], found.boxes, atol=1e-4)
        assert labels[i, :n].tolist() == found.labels.tolist()
        assert not scores[i, n:].any() and not boxes[i, n:].any() and not labels[i, n:].any()
    assert not list(tmp_path.glob(".suppression*"))


OTHERS = ("onnx-fp16", "openvino-fp16", "x86-openvino")


@pytest.mark.parametrize(
    "name", ["x86-vnni", "openvino-fp32", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)]
)
def test_a_target_suppresses_inside_and_is_judged(parent, tmp_path, name):
    if not all(availability(target(name))[:2]):
        pytest.skip(availability(target(name))[2])
    artifact = build(job_of(parent, tmp_path), inside_of(name))
    assert [output.name for output in artifact.input.outputs] == ["boxes", "scores", "labels"]
    assert artifact.provenance["parent"] == parent.sha256
    expected, got = outputs_of(parent), outputs_of(artifact)
    assert [each.dtype for each in got] == [np.float32] * 3
    agreement = compared(expected, got, "detection", artifact.precision)
    assert agreement, agreement.why
    score = TASK.score(TASK.kept(got), truth := np.zeros((6, 1, 6), np.float32))
    assert score == TASK.score(TASK.kept(expected), truth) == 0.0
    boxes, scores, labels = got
    for wrong in (
        (boxes[..., [1, 0, 3, 2]], scores, labels),
        (boxes, scores, (labels + 1) % 3),
        (boxes, scores / 4, labels),
    ):
        assert not compared(expected, wrong, "detection", artifact.precision)


def test_an_engine_is_built_from_such_a_graph(parent, tmp_path):
    """TensorRT takes NonMaxSuppression; only its builder is not here."""
    for name in ("tensorrt", "tensorrt-int8"):
        model = engine_source(job_of(parent, tmp_path), inside_of(name))
        onnx.checker.check_model(model, full_check=True)
        assert {output.name for output in model.graph.output} == {"boxes", "scores", "labels"}
        assert "NonMaxSuppression" in {node.op_type for node in model.graph.node}


def test_a_format_without_it_and_a_task_without_it_say_so(tmp_path, parent):
    text = "description: x\nprecision: fp32\noptions: {nms: graph}\nmeasured_on: x\n"
    for format, runtime in (("litert", "litert"), ("ncnn", "ncnn"), ("tensorrt-rtx", "tensorrt-rtx")):
        path = tmp_path / f"{format}.yaml"
        path.write_text(f"{text}format: {format}\nruntime: {runtime}\n")
        with pytest.raises(UsageError, match="Leave it out: it is done outside the file") as caught:
            load_target(path)
        assert WITHOUT[format] in str(caught.value)
    plain = SimpleNamespace(input=InputSpec(8, 8, 1, (0.5,), (0.5,), ("a", "b")))
    with pytest.raises(UsageError, match="can suppress by itself"), inside(plain, tmp_path, "mine: options.nms"):
        pass
    assert json.loads(Options().model_dump_json())["nms"] == "outside"
