"""ExecuTorch programs, really built and run: what XNNPACK takes of them, in which precision, and what they answer."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_nets import Normalised, SmallResNet, colour_spec, grey_spec, labels, pixels, problem
from torch import nn
from torch.nn import functional as F

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.formats import ExportJob, build, open_runner, target
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build as build_model
from kdcompress.models.deployable import Deployable
from kdcompress.parity import parity
from kdcompress.runner import infer_all

pytest.importorskip("executorch")

from kdcompress.export import pt2e, to_executorch  # noqa: E402

FP32, INT8 = target("android-xnnpack-fp32"), target("android-xnnpack")
CAST = {"dim_order_ops._to_dim_order_copy.default": 1}


@pytest.fixture(scope="module")
def module_job(trained, tmp_path_factory) -> ExportJob:
    folder = tmp_path_factory.mktemp("executorch")
    return ExportJob(trained.module, trained.artifact, problem(256, seed=2)[0], folder, "student")


@pytest.fixture(scope="module")
def fp32(module_job) -> Artifact:
    return build(module_job, FP32)


@pytest.fixture(scope="module")
def int8(module_job) -> Artifact:
    return build(module_job, INT8)


def with_scheme(**changes):
    scheme = INT8.options.scheme.model_copy(update=changes)
    return INT8.model_copy(update={"options": INT8.options.model_copy(update={"scheme": scheme})})


def exported(module: nn.Module, spec: InputSpec, folder: Path) -> ExportJob:
    parent = export_onnx(module, spec, folder / "net.onnx")
    return ExportJob(module, parent, pixels(spec, 64), folder, "net")


def accuracy(artifact: Artifact) -> float:
    x, y = problem(500, seed=5)
    with open_runner(artifact) as runner:
        return float(np.mean(infer_all(runner, x, artifact.input)[0].argmax(1) == y)) * 100


def test_fp32_runs_in_one_delegate_but_for_the_cast_of_the_pixels(fp32):
    found = fp32.provenance["coverage"]
    assert found["conv"] == {"int8": 0, "fp32": 7} and found["gemm"] == {"int8": 0, "fp32": 1}
    assert found["delegated"]["parts"] == 1 and found["delegated"]["macs"] == 1.0 and found["outside"] == CAST
    assert set(fp32.provenance["versions"]) == {"executorch", "torch", "torchao"}


def test_int8_runs_in_int8_from_the_first_layer_to_the_last(int8, fp32):
    found = int8.provenance["coverage"]
    assert found["conv"] == {"int8": 7, "fp32": 0} and found["gemm"] == {"int8": 1, "fp32": 0}
    assert found["delegated"]["parts"] == 1 and found["delegated"]["macs"] == 1.0 and found["outside"] == CAST
    assert int8.bytes * 2.5 < fp32.bytes and int8.provenance["calibration_images"] == 256
    assert accuracy(fp32) > 95 and accuracy(fp32) - accuracy(int8) <= 0.5


@pytest.mark.slow
def test_the_same_bytes_every_time(module_job, int8, tmp_path):
    assert build(replace(module_job, folder=tmp_path), INT8).sha256 == int8.sha256


def test_nothing_is_printed_and_the_module_is_left_as_it_was(fixed, tmp_path):
    code = """
import sys, logging
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from export_nets import SmallPlain, Normalised, grey_spec, pixels
from kdcompress.export.formats import ExportJob, build, open_runner, target
from kdcompress.export.to_onnx import export_onnx
spec, folder = grey_spec(), Path(sys.argv[2])
module = Normalised(SmallPlain(1, 4), spec).train()
job = ExportJob(module, export_onnx(module, spec, folder / "a.onnx"), pixels(spec, 8), folder, "a")
handlers = list(logging.root.handlers)
with open_runner(build(job, target("android-xnnpack"))) as runner:
    runner.infer(pixels(spec, 3))
assert module.training and all(p.requires_grad and p.grad is None for p in module.parameters())
assert logging.root.handlers == handlers and logging.root.manager.disable == 0
"""
    run = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_float_pixels_and_a_fixed_batch(fixed, tmp_path):
    job = ExportJob(fixed.module, fixed.artifact, pixels(fixed.spec, 65), tmp_path, "plain")
    artifact = build(job, FP32)
    assert artifact.provenance["images_a_call"] == 2 and artifact.provenance["coverage"]["outside"] == {}
    with open_runner(fixed.artifact) as parent, open_runner(artifact) as runner:
        assert parity(parent, runner, pixels(fixed.spec, 5), fixed.spec, "fp32")
        with pytest.raises(UsageError, match="whole batches"):
            runner.infer(fixed.spec.prepare(pixels(fixed.spec, 3)))
    found = build(job, INT8).provenance["coverage"]
    assert found["conv"] == {"int8": 2, "fp32": 0} and found["gemm"] == {"int8": 1, "fp32": 0}


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_threads(threads, fp32):
    code = """
import os, sys, json
from pathlib import Path
import numpy as np
from kdcompress.artifact import Artifact, InputSpec
from kdcompress.export.run_executorch import ExecuTorchRunner, library
from export_nets import grey_spec
library()
before = len(os.listdir("/proc/self/task"))
runner = ExecuTorchRunner(Artifact.of(Path(sys.argv[1]), "executorch", "fp32", grey_spec()), threads=int(sys.argv[2]))
with runner:
    for _ in range(20):
        runner.infer(np.zeros((1, 16, 16, 1), np.uint8))
    print(len(os.listdir("/proc/self/task")) - before, runner.details()["threads"])
"""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    run = [sys.executable, "-c", code, str(fp32.path), str(threads)]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [str(threads - 1), str(threads)], done.stderr


def test_one_pool_of_threads_a_process(fp32):
    with open_runner(fp32) as runner:
        with open_runner(fp32) as second:
            assert np.array_equal(runner.infer(pixels(fp32.input, 2))[0], second.infer(pixels(fp32.input, 2))[0])
        with pytest.raises(UsageError, match="one thread pool"), open_runner(fp32, threads=2):
            pass
    with open_runner(fp32, threads=2) as runner:
        assert runner.infer(pixels(fp32.input, 2))[0].shape == (2, 4)


@pytest.mark.parametrize("content", ["missing", "empty", "text", "cut", "no delegate"])
def test_a_damaged_file(content, fp32, tmp_path, capfd):
    data = fp32.path.read_bytes()
    damaged = {"empty": b"", "text": b"hello" * 100, "cut": data[: len(data) // 3]}
    path = tmp_path / "a.pte"
    if content != "missing":
        path.write_bytes(damaged.get(content, data.replace(b"XnnpackBackend", b"XnnpackBackenD")))
    with pytest.raises(UsageError, match=r"no such|cannot load") as caught, open_runner(replace(fp32, path=path)):
        pass
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) <= 4
    assert capfd.readouterr().err == ""
    with open_runner(fp32) as runner:  # nothing is left open
        assert runner.infer(pixels(fp32.input, 1))[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"activation": "uint8"}, "activation"),
        ({"weight": "uint8"}, "weight"),
        ({"reduce_range": True}, "reduce_range"),
        ({"quantize_bias": False}, "quantize_bias"),
        ({"calibration": "entropy"}, "calibration"),
        ({"bias_correction": True}, "bias_correction"),
        ({"exclude": ("net.nothing",)}, "exclude"),
        ({"op_types": ("Conv",)}, "op_types"),
    ],
)
def test_a_scheme_that_xnnpack_cannot_do_is_refused(change, key, job):
    with pytest.raises(UsageError, match=rf"options\.scheme\.{key}"):
        build(job, with_scheme(**change))
    assert not list(job.folder.iterdir())


@pytest.mark.slow
def test_what_the_scheme_leaves_out_stays_in_float(job):
    found = build(job, with_scheme(exclude=("net.fc", "net.body.1"), per_channel=False, symmetric=True, images=64))
    assert found.provenance["coverage"]["conv"] == {"int8": 4, "fp32": 3}
    assert found.provenance["coverage"]["gemm"] == {"int8": 0, "fp32": 1}
    assert found.provenance["calibration_images"] == 64 and accuracy(found) > 94


@pytest.mark.slow
def test_an_int8_program_with_nothing_in_int8_is_refused(job):
    with pytest.raises(KDCompressError, match="runs in int8"):
        build(job, with_scheme(op_types=("add",)))
    assert not list(job.folder.iterdir())


class ThreeDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x.unsqueeze(2)).mean((2, 3, 4))


def test_what_xnnpack_does_not_take_is_named(job, trained):
    job.module = Normalised(ThreeDimensional(), trained.spec)
    with pytest.raises(KDCompressError, match=r"too little.*\n.*\n.*1 aten\.convolution\.default") as caught:
        build(job, FP32)
    assert "0.0%" in str(caught.value) and not list(job.folder.iterdir())


@pytest.mark.slow
def test_a_network_of_the_zoo(tmp_path):
    torch.manual_seed(0)
    spec = grey_spec(height=28, width=28, labels=labels(10))
    job = exported(Deployable(build_model("resnet8", 10, 1).eval(), spec), spec, tmp_path)
    artifact = build(job, FP32)
    found = artifact.provenance["coverage"]
    assert found["delegated"]["parts"] == 1 and found["outside"] == CAST
    with open_runner(job.parent) as parent, open_runner(artifact) as runner:
        assert parity(parent, runner, pixels(spec, 32), spec, "fp32")


@pytest.mark.slow
def test_a_network_of_timm(tmp_path):
    torch.manual_seed(0)
    spec = colour_spec(height=32, width=32)
    job = exported(Deployable(build_model("timm/mobilenetv3_small_050", 5, 3).eval(), spec), spec, tmp_path)
    artifact = build(job, FP32)
    found = artifact.provenance["coverage"]
    assert found["delegated"]["parts"] == 1 and found["delegated"]["macs"] == 1.0 and found["outside"] == CAST
    with open_runner(job.parent) as parent, open_runner(artifact) as runner:
        assert parity(parent, runner, pixels(spec, 32), spec, "fp32")


@pytest.mark.slow
def test_quantisation_aware_training_with_the_same_scheme(tmp_path):
    from torchao.quantization.pt2e import allow_exported_model_train_eval, move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

    torch.manual_seed(0)
    spec = grey_spec()
    graph = to_executorch.capture(Normalised(SmallResNet(1, 4), spec), spec, training=True)
    net = prepare_qat_pt2e(graph, pt2e.quantizer(INT8.options.scheme, qat=True))
    allow_exported_model_train_eval(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x, y = problem(1024, seed=1)
    losses = []
    for step in range(40):
        part = slice(step * 64 % 1024, step * 64 % 1024 + 64)
        loss = F.cross_entropy(net(torch.from_numpy(x[part])), torch.from_numpy(y[part]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    move_exported_model_to_eval(net)
    x, y = problem(300, seed=5)
    with torch.no_grad():
        simulated = net(torch.from_numpy(x)).numpy()
    path = tmp_path / "qat.pte"
    found = to_executorch.lower(to_executorch.program(convert_pt2e(net), spec), path, int8=True)
    assert found["conv"] == {"int8": 7, "fp32": 0} and found["gemm"] == {"int8": 1, "fp32": 0}
    with open_runner(Artifact.of(path, "executorch", "int8", spec)) as runner:
        (logits,) = infer_all(runner, x, spec)
    assert np.mean(logits.argmax(1) == simulated.argmax(1)) > 0.98 and np.mean(logits.argmax(1) == y) > 0.9
