"""ONNX Runtime's own format, and the int8 targets that are ONNX files for other machines."""

from __future__ import annotations

import platform

import onnx
import pytest
import torch
from export_nets import pixels, problem

from kdcompress.artifact import InputSpec
from kdcompress.errors import UsageError
from kdcompress.export.formats import ExportJob, Options, build, open_runner, target
from kdcompress.export.run_onnxruntime import open_session
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build as build_net
from kdcompress.models.deployable import Deployable
from kdcompress.parity import parity
from kdcompress.runner import infer_all

FLOAT = target("android-ort").model_copy(update={"precision": "fp32", "options": Options(platform="arm")})
WIDE = FLOAT.model_copy(update={"name": "wide", "options": Options(platform="amd64")})


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory):
    job = ExportJob(
        trained.module, trained.artifact, problem(256, seed=2)[0], tmp_path_factory.mktemp("ort"), "student"
    )
    return {name: build(job, target(name)) for name in ("android-ort", "amd64-ort", "arm64-dotprod", "x86-avx2")}


@pytest.mark.parametrize("name", ["android-ort", "amd64-ort", "arm64-dotprod", "x86-avx2"])
def test_every_layer_is_int8_on_the_platform(name, built):
    """On this machine alone, a signed activation keeps its convolution in float."""
    found = built[name].provenance["coverage"]
    assert found["conv"] == {"int8": 7, "fp16": 0, "fp32": 0} and found["gemm"] == {"int8": 1, "fp16": 0, "fp32": 0}


def test_the_file_holds_the_optimised_graph(built):
    for name in ("android-ort", "amd64-ort"):
        content = built[name].path.read_bytes()
        assert content[4:8] == b"ORTM" and b"QLinearConv" in content
        assert "needs" not in built[name].provenance
        operators = built[name].provenance["operators"]
        assert any(line.startswith("com.microsoft;1;") and "QLinearConv" in line for line in operators)
        assert not any("DequantizeLinear" in line or "nchwc" in line for line in operators)


def test_arm_files_have_signed_activations_and_x86_files_unsigned(built):
    kinds = {
        name: {i.data_type for i in onnx.load(built[name].path).graph.initializer}
        for name in ("arm64-dotprod", "x86-avx2")
    }
    unsigned = onnx.TensorProto.UINT8
    assert unsigned not in kinds["arm64-dotprod"] and unsigned in kinds["x86-avx2"]


def test_seven_bit_weights_without_vnni(built, job):
    def most(artifact):
        found = [onnx.numpy_helper.to_array(i) for i in onnx.load(artifact.path).graph.initializer]
        return max(abs(w.astype(int)).max() for w in found if w.dtype == "int8")

    assert most(built["x86-avx2"]) <= 64 and most(build(job, target("x86-vnni"))) == 127


def test_the_two_arm_targets_are_one_file(built, job):
    assert build(job, target("raspberry-pi-5")).sha256 == built["arm64-dotprod"].sha256


def test_the_same_input_gives_the_same_graph(built, job, trained):
    """Not the same bytes: ONNX Runtime writes a table of its kernels in no order."""
    again = build(job, target("android-ort"))
    assert again.bytes == built["android-ort"].bytes
    assert again.provenance["operators"] == built["android-ort"].provenance["operators"]
    images = problem(64, seed=3)[0]
    with open_runner(again) as one, open_runner(built["android-ort"]) as other:
        assert (infer_all(one, images, trained.spec)[0] == infer_all(other, images, trained.spec)[0]).all()


def test_a_float_file_for_arm_has_no_layout_of_x86(job, trained):
    arm, wide = build(job, FLOAT), build(job, WIDE)
    blocked = [any("nchwc" in line for line in file.provenance["operators"]) for file in (arm, wide)]
    assert blocked == ["needs" in file.provenance for file in (arm, wide)]
    assert blocked == [False, platform.machine() in ("x86_64", "AMD64")]
    with open_runner(trained.artifact) as parent, open_runner(arm) as one, open_runner(wide) as other:
        for runner in (one, other):
            assert parity(parent, runner, problem(64, seed=3)[0], trained.spec, "fp32")


def test_metadata_and_threads(built):
    with open_runner(built["android-ort"], threads=2) as runner:
        assert runner.details()["threads"] == 2 and runner.name == "onnxruntime-ort-cpu"
        assert runner._session.get_session_options().intra_op_num_threads == 2
        assert runner._session.get_modelmeta().custom_metadata_map["labels"].startswith('["class 0"')


@pytest.mark.parametrize("name", ["android-ort", "amd64-ort"])
def test_float_input_and_a_fixed_batch(name, fixed, job):
    job.module, job.parent, job.calibration = fixed.module, fixed.artifact, pixels(fixed.spec, 64)
    artifact = build(job, target(name))
    images = pixels(fixed.spec, 7, seed=1)
    with open_runner(fixed.artifact) as parent, open_runner(artifact) as runner:
        found = parity(parent, runner, images, fixed.spec, "int8")
    assert found.n == 7 and found.relative < 0.1


def test_without_a_platform(job):
    with pytest.raises(UsageError, match="options.platform"):
        build(job, FLOAT.model_copy(update={"options": Options()}))


@pytest.mark.parametrize("fault", ["missing", "short", "text"])
def test_a_damaged_file(fault, built, tmp_path):
    path = tmp_path / "student.ort"
    content = built["android-ort"].path.read_bytes()
    if fault != "missing":
        path.write_bytes(content[:1000] if fault == "short" else b"hello")
    with pytest.raises(UsageError, match=r"student\.ort"):
        open_session(path)


@pytest.mark.parametrize("name", ["resnet8", pytest.param("mobilenetv3", marks=pytest.mark.slow)])
def test_real_nets_in_fp32(name, tmp_path):
    torch.manual_seed(0)
    if name == "resnet8":
        net, side, channels = build_net("resnet8", 10, 1), 28, 1
    else:
        net, side, channels = pytest.importorskip("timm").create_model("mobilenetv3_small_050", num_classes=10), 64, 3
    spec = InputSpec(side, side, channels, (0.5,) * channels, (0.25,) * channels, tuple("abcdefghij"))
    module = Deployable(net.eval(), spec)
    parent = export_onnx(module, spec, tmp_path / "parent.onnx")
    job = ExportJob(module, parent, pixels(spec, 32), tmp_path / "out", "net")
    with open_runner(parent) as expected, open_runner(build(job, FLOAT)) as runner:
        found = parity(expected, runner, pixels(spec, 40, seed=1), spec, "fp32")
    assert found, found.why
