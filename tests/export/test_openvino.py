"""OpenVINO: what is built computes in what it says, runs like its parent, and is the same every time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from export_nets import pixels, problem

from kdcompress.artifact import InputSpec
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export.formats import ExportJob, Options, Scheme, Target, availability, build, open_runner, target
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build as build_net
from kdcompress.models.deployable import Deployable
from kdcompress.parity import parity
from kdcompress.runner import infer_all

ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")
INT8 = target("x86-openvino")
NAMES = ["openvino-fp32", pytest.param("openvino-fp16", marks=pytest.mark.slow), "x86-openvino"]


def with_scheme(**changes) -> Target:
    return INT8.model_copy(update={"options": Options(scheme=Scheme(**{"images": 64, **changes}))})


def most_steps(artifact) -> int:
    nodes = ov.Core().read_model(artifact.path / "model.xml").get_ops()
    return max(abs(n.data.astype(int)).max() for n in nodes if n.get_element_type() == ov.Type.i8 and not n.inputs())


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory):
    job = ExportJob(trained.module, trained.artifact, problem(256, seed=2)[0], tmp_path_factory.mktemp("ov"), "student")
    return {name: build(job, target(name)) for name in ("openvino-fp32", "openvino-fp16", "x86-openvino")}


def test_coverage_is_what_the_compiled_model_computes_in(built):
    found = {name: artifact.provenance["coverage"] for name, artifact in built.items()}
    assert found["x86-openvino"]["conv"] == {"int8": 7, "fp16": 0, "fp32": 0}
    assert found["x86-openvino"]["gemm"] == {"int8": 1, "fp16": 0, "fp32": 0}
    assert found["x86-openvino"]["weights"]["int8"] > 70_000
    for name in ("openvino-fp32", "openvino-fp16"):  # a CPU computes in fp32 what is stored in fp16
        assert found[name]["conv"] == {"int8": 0, "fp16": 0, "fp32": 7}
        assert not any("I8" in kernel for kernel in found[name]["kernels"])
    assert found["openvino-fp16"]["weights"]["fp16"] > 70_000 and "fp16" not in found["openvino-fp32"]["weights"]
    assert built["x86-openvino"].bytes < built["openvino-fp16"].bytes < built["openvino-fp32"].bytes


def test_int8_logits_are_near(built, trained):
    """Without the full bias correction the mean error is 0.25, all in one direction."""
    images = problem(300, seed=3)[0]
    with open_runner(trained.artifact) as parent, open_runner(built["x86-openvino"]) as runner:
        assert parity(parent, runner, images, trained.spec, "int8").mean_abs < 0.08


def test_the_file_says_what_it_takes(built):
    model = ov.Core().read_model(built["x86-openvino"].path / "model.xml")
    said = {
        key: model.get_rt_info(["framework", key]).astype(str) for key in ("labels", "mean", "kdcompress.precision")
    }
    assert said == {
        "labels": '["class 0", "class 1", "class 2", "class 3"]',
        "mean": "[0.3]",
        "kdcompress.precision": "int8",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_same_input_gives_the_same_bytes(name, built, job):
    assert build(job, target(name)).sha256 == built[name].sha256


@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_asked_for_and_no_bf16(threads, built):
    with open_runner(built["openvino-fp32"], threads=threads) as runner:
        details = runner.details()
    options = details["options"]
    assert details["threads"] == options["INFERENCE_NUM_THREADS"] == threads
    assert (options["INFERENCE_PRECISION_HINT"], options["PERFORMANCE_HINT"]) == ("f32", "LATENCY")
    assert (options["NUM_STREAMS"], options["ENABLE_CPU_PINNING"]) == (1, False)


def test_logits_do_not_change_afterwards(built):
    """OpenVINO reuses its output's memory."""
    a, b = problem(8, seed=4)[0], problem(8, seed=5)[0]
    with open_runner(built["openvino-fp32"]) as runner:
        (first,) = runner.infer(a)
        kept = first.copy()
        runner.infer(b)
        assert first.dtype == np.float32 and (first == kept).all()


@pytest.mark.parametrize("name", NAMES)
def test_float_input_and_a_fixed_batch(name, fixed, job):
    job.module, job.parent, job.calibration = fixed.module, fixed.artifact, pixels(fixed.spec, 65)
    artifact = build(job, target(name))
    images = pixels(fixed.spec, 7, seed=1)
    with open_runner(fixed.artifact) as parent, open_runner(artifact) as runner:
        assert infer_all(runner, images, fixed.spec)[0].shape == (7, 5)
        found = parity(parent, runner, images, fixed.spec, artifact.precision)
    assert found or found.relative < 0.1  # an untrained net's logits are close to each other
    if name == "x86-openvino":
        assert artifact.provenance["calibration_images"] == 64


def test_seven_bit_weights(built, job):
    """The most that a weight is, in steps."""
    assert most_steps(built["x86-openvino"]) <= 64
    assert most_steps(build(job, with_scheme(reduce_range=False))) == 127


def test_one_scale_for_all_channels_and_other_ranges(built, job):
    """The second build takes the place of the first."""
    assert build(job, with_scheme(per_channel=False)).bytes < built["x86-openvino"].bytes
    other = with_scheme(calibration="percentile", percentile=99.9, symmetric=True)
    assert build(job, other).provenance["coverage"]["conv"]["int8"] == 7


def test_an_excluded_layer_stays_in_float(job):
    artifact = build(job, with_scheme(exclude=("net.body.0",)))
    assert artifact.provenance["coverage"]["conv"] == {"int8": 4, "fp16": 0, "fp32": 3}
    with pytest.raises(UsageError, match="no node of this name") as caught:
        build(job, with_scheme(exclude=("net.body.0", "stem")))
    assert "got: stem" in str(caught.value) and "net.body.0.short" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "int8"},
        {"weight": "uint8"},
        {"quantize_bias": True},
        {"op_types": ("Conv",)},
        {"calibration": "entropy"},
    ],
)
def test_what_nncf_cannot_do_is_refused(changes, job):
    with pytest.raises(UsageError, match=rf"options.scheme.{next(iter(changes))}"):
        build(job, with_scheme(**changes))
    assert not job.folder.exists() or not list(job.folder.iterdir())


def test_int8_of_nothing_is_an_error(job):
    with pytest.raises(KDCompressError, match="Nothing of this model is int8"):
        build(job, with_scheme(exclude=tuple(layer_names(job))))
    assert not list(job.folder.iterdir())


def layer_names(job) -> list[str]:
    import onnx

    return [n.name for n in onnx.load(job.parent.path).graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]


@pytest.mark.parametrize("fault", ["no bin", "no xml", "short bin", "short xml", "other xml"])
def test_a_damaged_model(fault, built, tmp_path):
    whole = built["openvino-fp32"]
    artifact = replace(whole, path=shutil.copytree(whole.path, tmp_path / whole.path.name))
    kind = fault.split()[1]
    path = artifact.path / f"model.{kind}"
    content = path.read_bytes()
    if fault.startswith("no"):
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if fault.startswith("short") else b"<html></html>")
    with pytest.raises(UsageError) as caught, open_runner(artifact):
        pass
    assert str(artifact.path) in str(caught.value) and "export it again" in str(caught.value)


@pytest.mark.parametrize("name", ["resnet8", pytest.param("mobilenetv3", marks=pytest.mark.slow)])
def test_real_nets_in_fp32(name, tmp_path):
    torch.manual_seed(0)
    side, channels = (28, 1) if name == "resnet8" else (64, 3)
    if name == "resnet8":
        net = build_net("resnet8", 10, 1)
    else:
        net = pytest.importorskip("timm").create_model("mobilenetv3_small_050", num_classes=10)
    spec = InputSpec(side, side, channels, (0.5,) * channels, (0.25,) * channels, tuple("abcdefghij"))
    module = Deployable(net.eval(), spec)
    parent = export_onnx(module, spec, tmp_path / "parent.onnx")
    job = ExportJob(module, parent, pixels(spec, 32), tmp_path / "out", "net")
    artifact = build(job, target("openvino-fp32"))
    with open_runner(parent) as expected, open_runner(artifact) as runner:
        found = parity(expected, runner, pixels(spec, 40, seed=1), spec, "fp32")
    assert found, found.why


def test_nothing_is_sent_or_printed(trained, tmp_path):
    """OpenVINO and NNCF send statistics and print progress by default; here neither happens in a fresh process."""
    code = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import json, logging, pathlib, numpy as np
from kdcompress.artifact import Artifact, InputSpec
from kdcompress.export.formats import ExportJob, build, open_runner, target
path = pathlib.Path({str(trained.artifact.path)!r})
from kdcompress.export.describe import artifact_of
job = ExportJob(None, artifact_of(path), np.zeros((8, 16, 16, 1), np.uint8), pathlib.Path({str(tmp_path)!r}), "s")
with open_runner(build(job, target("x86-openvino"))) as runner:
    runner.infer(np.zeros((1, 16, 16, 1), np.uint8))
assert sys.modules["openvino_telemetry"] is None and logging.getLoggerClass() is logging.Logger
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_openvino_the_extra_is_named(job, monkeypatch):
    for absent in ("openvino", "nncf"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, absent, None)
            with pytest.raises(RuntimeMissingError, match=r"pip install 'kdcompress\[openvino\]'"):
                build(job, INT8)
            can_build, can_run, why, hint = availability(INT8)
            assert (
                (can_build, can_run) == (False, absent == "nncf") and absent in why and "kdcompress[openvino]" in hint
            )


def test_a_broken_parent(job, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    job.parent = replace(job.parent, path=path)
    with pytest.raises(KDCompressError, match="OpenVINO cannot read this ONNX model"):
        build(job, target("openvino-fp32"))
