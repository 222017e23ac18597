"""int8 and fp16 files: what runs in which precision, how big they are, what they answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from export_nets import problem
from torch import nn

from kdcompress.errors import UsageError
from kdcompress.export.formats import ExportJob, Scheme, build, open_runner, target
from kdcompress.export.quantize import coverage, quantize
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.deployable import Deployable
from kdcompress.parity import parity
from kdcompress.runner import infer_all

X86 = target("x86-vnni").options.scheme


def accuracy(artifact, seed=5):
    x, y = problem(1000, seed)
    with open_runner(artifact) as runner:
        return float(np.mean(infer_all(runner, x, artifact.input)[0].argmax(1) == y)) * 100


def test_int8_runs_in_int8_from_the_pixels_to_the_logits(job):
    artifact = build(job, target("x86-vnni"))
    found = artifact.provenance["coverage"]
    assert found["conv"] == {"int8": 7, "fp16": 0, "fp32": 0}
    assert found["gemm"] == {"int8": 1, "fp16": 0, "fp32": 0}
    assert found["leftover"] == 0  # one grey value is one step of the first scale, and logits leave as sums
    assert not {"Cast", "Div", "Sub", "Mul", "ReduceMean", "QuantizeLinear"} & set(found["nodes"])
    assert artifact.bytes * 2.5 < job.parent.bytes
    assert accuracy(job.parent) > 95 and accuracy(job.parent) - accuracy(artifact) <= 0.5


def test_int8_keeps_the_metadata_and_the_input(job):
    model = onnx.load(build(job, target("x86-vnni")).path)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert facts["kdcompress.precision"] == "int8" and facts["recipe"] == "test" and "labels" in facts
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.metadata_props for node in model.graph.node)


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": "entropy"},
        {"calibration": "percentile"},
        {"calibration": "percentile", "images": 90},  # of which the last batch has fewer
        {"calibration": "mse", "images": 90},
        {"reduce_range": True},
        {"per_channel": False},
    ],
)
def test_other_schemes_agree_too(changes, job, trained, capfd):
    path = job.folder / "other.onnx"
    found = quantize(job, Scheme(**{**X86.model_dump(), **changes}), path)
    assert found["conv"]["fp32"] == 0 and capfd.readouterr() == ("", "")
    artifact = job.parent.of(path, "onnx", "int8", trained.spec)
    with TorchRunner(trained.module, trained.spec) as torch_runner, open_runner(artifact) as runner:
        assert parity(torch_runner, runner, problem(200, seed=6)[0], trained.spec, "int8")


def test_the_scheme_for_tensorrt_is_symmetric_with_float_biases(job):
    path = job.folder / "tensorrt.onnx"
    quantize(job, Scheme(activation="int8", symmetric=True, quantize_bias=False), path)
    model = onnx.load(path)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not np.any(values[node.input[2]]) and values[node.input[2]].dtype == np.int8


def test_an_excluded_node_stays_in_float(job):
    path = job.folder / "part.onnx"
    found = quantize(job, X86.model_copy(update={"exclude": ("net.fc",)}), path)
    assert found["gemm"] == {"int8": 0, "fp16": 0, "fp32": 1} and found["conv"]["fp32"] == 0
    found = quantize(job, X86.model_copy(update={"exclude": ("net.body.0",)}), path)
    assert found["gemm"]["int8"] == 1 and (found["conv"]["int8"], found["conv"]["fp32"]) == (4, 3)
    with pytest.raises(UsageError, match="no node of this name") as caught:
        quantize(job, X86.model_copy(update={"exclude": ("net.bod",)}), path)
    assert "got: net.bod\n" in str(caught.value) and "net.body.0.conv1" in str(caught.value)


def test_float_input_and_colours_with_different_deviations(fixed, job):
    job.module, job.parent = fixed.module, fixed.artifact
    job.calibration = np.random.default_rng(0).integers(0, 256, (65, 16, 20, 3), dtype=np.uint8)
    artifact = build(job, target("x86-vnni"))
    assert artifact.provenance["coverage"]["conv"]["fp32"] == 0
    with open_runner(artifact) as runner:
        assert infer_all(runner, job.calibration[:3], fixed.spec)[0].shape == (3, 5)


def test_colours_are_normalised_in_int8(fixed, job):
    """Each by its own mean and deviation, by one layer more; the values are those of the float normalisation."""
    spec = replace(fixed.spec, batch=None, layout="uint8-nhwc", mean=(0.3, 0.5, 0.6), std=(0.2, 0.25, 0.3), channels=3)
    module = Deployable(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                      nn.Linear(8, spec.classes)), spec).eval()  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (32, spec.height, spec.width, 3), dtype=np.uint8)
    parent = export_onnx(module, spec, job.folder / "colours.onnx")
    made = build(ExportJob(module, parent, images, job.folder, "colours"), target("x86-vnni"))
    found = made.provenance["coverage"]
    assert found["conv"] == {"int8": 2, "fp16": 0, "fp32": 0} and found["leftover"] == 0
    assert not {"Cast", "Mul", "Add", "QuantizeLinear"} & set(found["nodes"])
    with open_runner(parent) as one, open_runner(made) as other:
        expected, got = (infer_all(runner, images, spec)[0] for runner in (one, other))
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()


def test_coverage_of_a_float_file(trained):
    found = coverage(trained.artifact.path)
    assert found["conv"] == {"int8": 0, "fp16": 0, "fp32": 7} and found["leftover"] == 0


def test_fp16_halves_the_file_and_keeps_input_and_output_types(job, trained):
    artifact = build(job, target("onnx-fp16"))
    model = onnx.load(artifact.path)
    assert artifact.bytes < 0.55 * job.parent.bytes
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    types = {i.name: i.data_type for i in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert all(types[node.input[1]] == onnx.TensorProto.FLOAT16 for node in layers)
    with TorchRunner(trained.module, trained.spec) as torch_runner, open_runner(artifact) as runner:
        found = parity(torch_runner, runner, problem(300, seed=4)[0], trained.spec, "fp16")
    assert found and found.relative < 3e-3
