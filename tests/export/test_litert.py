"""LiteRT: really converted, quantised and run."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_nets import SmallPlain, colour_spec, pixels, problem
from torch import nn

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.formats import ExportJob, Options, Scheme, Target, build, open_runner, target
from kdcompress.export.litert_file import coverage
from kdcompress.export.litert_int8 import quantize
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build as build_net
from kdcompress.models.deployable import Deployable
from kdcompress.parity import parity
from kdcompress.runner import infer_all

pytest.importorskip("litert_torch")
FP32, INT8 = target("litert-fp32"), target("android-litert")


def changed(**keys) -> Target:
    scheme = Scheme(**{**INT8.options.scheme.model_dump(), **keys})
    return INT8.model_copy(update={"options": Options(scheme=scheme)})


def job_for(net: nn.Module, spec, folder: Path, images=None) -> ExportJob:
    module = Deployable(net, spec).eval()
    parent = export_onnx(module, spec, folder / "student.onnx")
    return ExportJob(module, parent, pixels(spec, 32) if images is None else images, folder / "out", "student")


@pytest.fixture(scope="module")
def pair(trained, tmp_path_factory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("litert")
    job = ExportJob(trained.module, trained.artifact, problem(128, seed=2)[0], folder, "student")
    return {"fp32": build(job, FP32), "int8": build(job, INT8)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, Artifact]:
    """Colour images as pixels, and a hard-swish."""
    torch.manual_seed(0)
    job = job_for(SmallPlain(3, 5), colour_spec(), tmp_path_factory.mktemp("plain"))
    return {"fp32": build(job, FP32), "int8": build(job, INT8)}


def test_coverage_is_that_of_the_file(pair):
    found = pair["fp32"].provenance["coverage"]
    assert found["conv"] == {"int8": 0, "fp16": 0, "fp32": 7} and found["gemm"] == {"int8": 0, "fp16": 0, "fp32": 1}
    found = pair["int8"].provenance["coverage"]
    assert found["conv"] == {"int8": 7, "fp16": 0, "fp32": 0} and found["gemm"] == {"int8": 1, "fp16": 0, "fp32": 0}
    assert found["leftover"] == 2  # pixels to int8 after the normalisation, and the logits back
    assert found["transposes"] <= 1  # around the mean over space, not around the convolutions
    assert found["nodes"]["CONV_2D int8"] + found["nodes"]["DEPTHWISE_CONV_2D int8"] == 7
    assert pair["int8"].bytes < 0.4 * pair["fp32"].bytes


def test_int8_logits_are_close(pair, trained):
    images, labels = problem(400, seed=3)
    with open_runner(trained.artifact) as parent, open_runner(pair["int8"]) as runner:
        found = parity(parent, runner, images, trained.spec, "int8")
        (logits,) = infer_all(runner, images, trained.spec)
    # a quantiser that cuts off activations gives 0.36 here, one that keeps all of them 0.03
    assert found and found.mean_abs < 0.1
    assert np.mean(logits.argmax(1) == labels) > 0.97


def test_images_go_through_one_by_one(pair, trained):
    images = pixels(trained.spec, 5)
    with open_runner(pair["int8"]) as runner:
        assert runner.details()["options"] == {"delegate": "XNNPACK", "batch": 1}
        together, single = runner.infer(images)[0], [runner.infer(images[i : i + 1])[0] for i in range(5)]
    assert together.shape == (5, 4) and together.dtype == np.float32
    np.testing.assert_array_equal(together, np.concatenate(single))


def test_the_same_model_gives_the_same_file(pair, trained, tmp_path):
    job = ExportJob(trained.module, trained.artifact, problem(128, seed=2)[0], tmp_path, "student")
    assert build(job, INT8).sha256 == pair["int8"].sha256


def test_the_file_names_its_labels(pair, trained):
    with zipfile.ZipFile(pair["int8"].path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(trained.spec.labels)
        facts = json.loads(archive.read("kdcompress.json"))
    assert facts["kdcompress.precision"] == "int8" and facts["kdcompress.input"]["mean"] == [0.3]


def test_its_signature_has_the_names_of_the_input(pair):
    from kdcompress.export.run_litert import open_interpreter

    signature = open_interpreter(pair["int8"].path).get_signature_list()["serving_default"]
    assert signature == {"inputs": ["image"], "outputs": ["logits"]}


@pytest.mark.parametrize("wanted", [FP32, INT8], ids=["fp32", "int8"])
def test_float_planes_and_a_fixed_batch(fixed, tmp_path, wanted):
    job = ExportJob(fixed.module, fixed.artifact, pixels(fixed.spec, 33), tmp_path, "plain")
    training = fixed.module.training
    artifact = build(job, wanted)
    assert artifact.provenance["batch"] == 2 and fixed.module.training == training
    with open_runner(fixed.artifact) as parent, open_runner(artifact) as runner:
        tolerance = wanted.precision if wanted is FP32 else "fp16"
        found = parity(parent, runner, pixels(fixed.spec, 7, seed=1), fixed.spec, tolerance)
    assert found if wanted is FP32 else found.relative < 0.1


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet8", 1), pytest.param("timm/mobilenetv3_small_050", 3, marks=pytest.mark.slow)],
)
def test_real_nets(name, channels, tmp_path):
    torch.manual_seed(0)
    spec = colour_spec(height=32, width=32, channels=channels, mean=(0.3,) * channels, std=(0.3,) * channels)
    job = job_for(build_net(name, 5, channels), spec, tmp_path)
    artifact = build(job, FP32)
    assert artifact.provenance["coverage"]["transposes"] == 0
    with open_runner(job.parent) as parent, open_runner(artifact) as runner:
        assert parity(parent, runner, pixels(spec, 20), spec, "fp32")


def test_hard_swish_stays_in_float(plain):
    nodes = plain["int8"].provenance["coverage"]["nodes"]
    assert nodes["HARD_SWISH fp32"] == 1 and "HARD_SWISH int8" not in nodes and "CONV_2D fp32" not in nodes


def test_normalisation_is_as_wide_as_the_image(plain):
    from ai_edge_litert import schema_py_generated as schema

    content = plain["fp32"].path.read_bytes()
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    constant = graph.Tensors(graph.Operators(1).Inputs(1))  # after the cast
    assert list(constant.ShapeAsNumpy()) == [1, 1, 20, 3]


def test_operators_and_layers_can_stay_in_float(pair, trained, tmp_path):
    job = ExportJob(trained.module, trained.artifact, problem(32, seed=2)[0], tmp_path, "student")
    content = pair["fp32"].path.read_bytes()

    def found(**keys):
        return coverage(quantize(content, job, changed(**keys).options.scheme))

    left = found(exclude=("logits_output",), per_channel=False)
    assert left["gemm"] == {"int8": 0, "fp16": 0, "fp32": 1} and left["conv"]["int8"] == 7
    assert found(exclude=("net.fc",))["gemm"]["fp32"] == 1
    for path, count in (("net.stem", 1), ("net.body.1.short", 1), ("net.body.0", 3)):
        left = found(exclude=(path,))
        assert (left["conv"]["fp32"], left["conv"]["int8"], left["gemm"]["int8"]) == (count, 7 - count, 1)
    left = found(op_types=("FULLY_CONNECTED",))
    assert left["gemm"]["int8"] == 1 and left["conv"]["int8"] == 0
    with pytest.raises(UsageError, match="No operator has this name") as caught:
        found(exclude=("nowhere",))
    assert "net.body.1.conv2" in str(caught.value)
    with pytest.raises(UsageError, match="no such operator"):
        found(op_types=("Conv",))
    job.calibration = job.calibration[:0]
    with pytest.raises(KDCompressError, match="too few calibration images"):
        found()


def test_an_int8_file_without_int8_layers_is_refused(job):
    with pytest.raises(KDCompressError, match="No convolution or matrix product .* is int8"):
        build(job, changed(op_types=("MAX_POOL_2D",)))
    assert not list(job.folder.iterdir())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation", "uint8"),
        ("weight", "uint8"),
        ("reduce_range", True),
        ("symmetric", True),
        ("quantize_bias", False),
        ("calibration", "entropy"),
        ("bias_correction", True),
    ],
)
def test_a_scheme_that_cannot_be_honoured(job, key, value):
    with pytest.raises(UsageError, match=f"options.scheme.{key}"):
        build(job, changed(**{key: value}))


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"hello", lambda b: b[:2000], lambda b: b[: len(b) // 2]])
def test_a_damaged_file(pair, tmp_path, damage):
    path = tmp_path / "damaged.tflite"
    path.write_bytes(damage(pair["int8"].path.read_bytes()))
    with pytest.raises(UsageError, match="LiteRT cannot load this file"), open_runner(replace(pair["int8"], path=path)):
        pass


def test_a_missing_file(pair, tmp_path):
    with (
        pytest.raises(UsageError, match="no such .tflite file"),
        open_runner(replace(pair["int8"], path=tmp_path / "none.tflite")),
    ):
        pass


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_those_asked_for(pair, trained, threads):
    before = len(os.listdir("/proc/self/task"))
    with open_runner(pair["fp32"], threads=threads) as runner:
        runner.infer(pixels(trained.spec, 1))
        assert len(os.listdir("/proc/self/task")) - before == threads - 1
        assert runner.details()["threads"] == threads


def test_the_runtime_alone_is_enough_to_run(pair, trained, tmp_path):
    """And it prints nothing."""
    record = tmp_path / "artifact.json"
    record.write_text(json.dumps(pair["int8"].to_json()))
    code = (
        "import json, sys, numpy as np; from pathlib import Path; from kdcompress.artifact import Artifact\n"
        "from kdcompress.export.run_litert import LiteRTRunner\n"
        "a = Artifact.from_json(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))\n"
        "with LiteRTRunner(a) as r: assert r.infer(np.zeros((1, 16, 16, 1), np.uint8))[0].shape == (1, 4)\n"
        "print([m for m in ('litert_torch', 'torch', 'jax', 'ai_edge_quantizer') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(record), str(pair["int8"].path.parent)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (out.stdout.strip(), out.stderr.strip()) == ("[]", "")


def test_building_prints_nothing_and_leaves_logging_alone(fixed, tmp_path, capfd):
    handlers = list(logging.root.handlers)
    build(ExportJob(fixed.module, fixed.artifact, pixels(fixed.spec, 8), tmp_path, "plain"), INT8)
    assert capfd.readouterr() == ("", "") and logging.root.handlers == handlers


def test_a_model_that_cannot_be_converted_says_why(job):
    class Sorted(nn.Module):
        def forward(self, x):
            flat = x.flatten(1).float()
            return torch.linalg.svdvals(flat.unflatten(1, (16, 16)))[:, :4]

    job.module = Sorted()
    with pytest.raises(KDCompressError, match="litert-torch cannot convert this model") as caught:
        build(job, FP32)
    assert "svd" in str(caught.value) and not list(job.folder.iterdir())


def test_other_exports_work_afterwards(pair, tmp_path):
    spec = colour_spec()
    export_onnx(Deployable(SmallPlain(3, 5), spec).eval(), spec, tmp_path / "plain.onnx")
