"""ncnn, MNN and Core ML artefacts, really built and, all but Core ML, run."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from export_nets import SmallPlain, colour_spec, grey_spec, labels, pixels, problem
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

from kdcompress.artifact import files_of, sha256
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export import to_mnn, to_ncnn
from kdcompress.export.formats import ExportJob, Target, build, open_runner, target
from kdcompress.export.planar import planar
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build as build_net
from kdcompress.models.deployable import Deployable
from kdcompress.parity import parity

FORMATS = {"ncnn": "ncnn-fp32", "mnn": "mnn-fp32", "coreml": "ios-coreml"}
PACKAGES = {"ncnn": ("ncnn", "pnnx"), "mnn": ("MNN",), "coreml": ("coremltools",)}
RUN_HERE = ("ncnn", "mnn")


def target_of(format: str, precision: str = "fp32") -> Target:
    for package in PACKAGES[format]:
        pytest.importorskip(package)
    return target(FORMATS[format]).model_copy(update={"precision": precision})


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory):
    """The trained net in each format and precision, built when first asked for."""
    job = ExportJob(
        trained.module, trained.artifact, problem(64, seed=2)[0], tmp_path_factory.mktemp("mobile"), "student"
    )
    made = {}

    def get(format, precision="fp32"):
        if (format, precision) not in made:
            named = target_of(format, precision).model_copy(update={"name": f"{format}-{precision}"})
            made[format, precision] = build(job, named)
        return made[format, precision]

    return get


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_coverage_counts_the_layers_by_type(built, format, precision):
    found = built(format, precision).provenance["coverage"]
    other = {"fp32": "fp16", "fp16": "fp32"}[precision]
    assert found["conv"] == {precision: 7, other: 0} and found["gemm"] == {precision: 1, other: 0}


@pytest.mark.parametrize("format", FORMATS)
def test_fp16_is_half_the_size(built, format):
    weights = [max(part.stat().st_size for part in files_of(built(format, p).path)) for p in ("fp16", "fp32")]
    assert 0.45 < weights[0] / weights[1] < 0.6


@pytest.mark.parametrize("format", RUN_HERE)
def test_a_fixed_batch_of_floats(fixed, format, tmp_path):
    job = ExportJob(fixed.module, fixed.artifact, pixels(fixed.spec, 8), tmp_path, "plain")
    artifact = build(job, target_of(format))
    with open_runner(fixed.artifact) as parent, open_runner(artifact) as runner:
        assert parity(parent, runner, pixels(fixed.spec, 7), fixed.spec)
    assert fixed.module.training  # as it was


def test_a_fixed_batch_of_floats_for_core_ml(fixed, tmp_path):
    ct = pytest.importorskip("coremltools")
    job = ExportJob(fixed.module, fixed.artifact, pixels(fixed.spec, 8), tmp_path, "plain")
    artifact = build(job, target_of("coreml"))
    image = ct.utils.load_spec(str(artifact.path)).description.input[0]
    assert image.name == "image" and list(image.type.multiArrayType.shape) == [1, 3, 16, 20]


@pytest.fixture(scope="module", params=["resnet8", pytest.param("timm/mobilenetv3_small_050", marks=pytest.mark.slow)])
def real(request, tmp_path_factory) -> ExportJob:
    torch.manual_seed(0)
    channels = 1 if request.param == "resnet8" else 3
    spec = (grey_spec if channels == 1 else colour_spec)(height=33, width=31, labels=labels(10))
    module = Deployable(build_net(request.param, 10, channels), spec).eval()
    folder = tmp_path_factory.mktemp("real")
    parent = export_onnx(module, spec, folder / "net.onnx")
    return ExportJob(module, parent, pixels(spec, 8), folder, "net")


@pytest.mark.parametrize("format", RUN_HERE)
def test_real_nets_agree(real, format):
    artifact, spec = build(real, target_of(format)), real.parent.input
    with open_runner(real.parent) as reference, open_runner(artifact) as runner:
        found = parity(reference, runner, pixels(spec, 9), spec)
    assert found and found.relative < 1e-5


@pytest.mark.parametrize("format", RUN_HERE)
def test_threads_and_batches_do_not_change_the_logits(built, trained, format):
    images = trained.spec.prepare(problem(5, seed=4)[0])
    found = []
    for threads in (1, 2):
        with open_runner(built(format), threads) as runner:
            assert runner.details()["threads"] == threads
            (together,), single = runner.infer(images), [runner.infer(images[i : i + 1])[0] for i in range(5)]
            found += [together, np.concatenate(single)]
            assert found[-1].dtype == np.float32 and found[-1].shape == (5, 4)
    for logits in found[1:]:
        np.testing.assert_allclose(logits, found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", ["ncnn", "mnn"])
def test_building_twice_gives_the_same_bytes(built, trained, format, tmp_path):
    first = built(format)
    again = build(
        ExportJob(trained.module, trained.artifact, problem(64, seed=2)[0], tmp_path, "again"), target_of(format)
    )
    assert sha256(again.path) == first.sha256


@pytest.mark.parametrize("format", RUN_HERE)
@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_a_damaged_file_is_explained(built, format, damage, tmp_path):
    good = built(format)
    path = tmp_path / good.path.name
    weights = path / "model.ncnn.bin" if format == "ncnn" else path
    weights.parent.mkdir(exist_ok=True)
    for part in files_of(good.path):
        (path / part.name if format == "ncnn" else path).write_bytes(part.read_bytes())
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000] if damage == "cut" else b"hello")
    with pytest.raises(UsageError, match="no such|cannot load") as caught, open_runner(replace(good, path=path)):
        pass
    assert str(weights) in str(caught.value)


def test_mnn_keeps_standard_output_clean(built):
    artifact = built("mnn")
    code = (
        "import sys; from pathlib import Path; from kdcompress.artifact import Artifact, InputSpec;"
        "from kdcompress.export.run_mnn import MnnRunner;"
        "spec = InputSpec(16, 16, 1, (0.3,), (0.3,), tuple('abcd'));"
        "runner = MnnRunner(Artifact.of(Path(sys.argv[1]), 'mnn', 'fp32', spec)).__enter__(); print('ready')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(artifact.path)], capture_output=True, text=True, check=True)
    assert done.stdout == "ready\n"


def test_core_ml_says_what_it_is_and_where_it_runs(built):
    ct = pytest.importorskip("coremltools")
    artifact = built("coreml", "fp16")
    described = ct.utils.load_spec(str(artifact.path)).description
    assert described.input[0].type.imageType.width == 16
    assert described.metadata.userDefined["labels"].startswith('["class 0"')
    assert described.metadata.versionString.startswith("kdcompress")
    if sys.platform != "darwin":
        with pytest.raises(RuntimeMissingError, match="macOS and iOS only"):
            open_runner(artifact)


INT8 = target("ios-coreml-int8")


def evaluated(path, x):
    """What the operations of a Core ML package give for one input array, by name, computed by PyTorch in fp32."""
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = pytest.importorskip("coremltools").utils.load_spec(str(path))
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    function = program.functions["main"]
    known = {name: torch.from_numpy(x).float() for name in function.inputs}

    def value(tensor):
        if isinstance(tensor, (list, tuple)):
            return [value(each) for each in tensor]
        if tensor is None or tensor.name in known:
            return tensor and known[tensor.name]
        return torch.as_tensor(tensor.val) if isinstance(tensor.val, np.ndarray | np.generic) else tensor.val

    def along(parameter, axis, rank):
        return parameter.float().view([-1 if i == axis else 1 for i in range(rank)]) if parameter.ndim else parameter

    for operation in function.operations:
        kind, given = operation.op_type, {name: value(part) for name, part in operation.inputs.items()}
        if kind == "const":
            continue
        a = given.get("x", given.get("input", given.get("quantized_data")))
        if kind in ("quantize", "dequantize", "constexpr_affine_dequantize"):
            axis, zero = given.get("axis"), given.get("zero_point")
            axis, zero = 0 if axis is None else int(axis), torch.tensor(0) if zero is None else zero
            scale, zero = along(given["scale"], axis, a.ndim), along(zero, axis, a.ndim)
            found = (a.float() - zero) * scale
            if kind == "quantize":
                low = 0 if given["output_dtype"] == "uint8" else -128
                found = (a / scale + zero).round().clamp(low, low + 255)
        elif kind == "conv":
            pad = given["pad"] if given["pad_type"] == "custom" else torch.zeros(4)
            top, bottom, left, right = pad.int().tolist()
            padded = F.pad(a, (left, right, top, bottom))
            stride, groups = given["strides"].tolist(), int(given["groups"])
            found = F.conv2d(padded, given["weight"].float(), given["bias"].float(), stride, groups=groups)
        elif kind == "linear":
            found = F.linear(a, given["weight"].float(), given["bias"].float())
        elif kind == "reduce_mean":
            found = a.mean(given["axes"].tolist(), keepdim=bool(given["keep_dims"]))
        elif kind == "reshape":
            found = a.reshape(given["shape"].tolist())
        elif kind == "cast":
            found = a
        elif kind == "transpose":
            found = a.permute(given["perm"].tolist())
        elif kind in ("relu", "sigmoid"):
            found = getattr(a, kind)()
        else:
            found = {"add": torch.add, "sub": torch.sub, "mul": torch.mul}[kind](a, given["y"])
        known[operation.outputs[0].name] = found
    return {output.name: known[output.name].numpy() for output in function.outputs}


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 2e-2), ("int8", 0.1)])
def test_what_a_core_ml_package_computes(built, trained, precision, allowed, tmp_path):
    if precision == "int8":
        pytest.importorskip("executorch")
        job = ExportJob(trained.module, trained.artifact, problem(256, seed=2)[0], tmp_path, "student")
        artifact = build(job, INT8)
    else:
        artifact = built("coreml", precision)
    images = problem(24, seed=4)[0]
    with open_runner(trained.artifact) as parent:
        (expected,) = parent.infer(trained.spec.prepare(images))
    found = np.concatenate([evaluated(artifact.path, image.transpose(2, 0, 1)[None])["logits"] for image in images])
    assert np.abs(found - expected).max() < allowed * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("name", ["ios-coreml", "ios-coreml-int8"])
def test_a_core_ml_package_has_each_output_under_its_name(heads, name):
    artifact = build(heads, target_of("coreml") if name == "ios-coreml" else INT8)
    ct = pytest.importorskip("coremltools")
    described = ct.utils.load_spec(str(artifact.path)).description.output
    shapes = {output.name: (1, *output.shape) for output in artifact.input.outputs}
    assert {value.name: tuple(value.type.multiArrayType.shape) for value in described} == shapes
    images = pixels(artifact.input, 3, seed=1)
    with open_runner(heads.parent) as parent:
        expected = parent.infer(images)
    found = [evaluated(artifact.path, image.transpose(2, 0, 1)[None]) for image in images]
    for output, wanted in zip(artifact.input.outputs, expected, strict=True):
        got = np.concatenate([each[output.name] for each in found])
        assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max(), output.name


@pytest.fixture(scope="module")
def int8_job(trained, tmp_path_factory):
    pytest.importorskip("coremltools")
    pytest.importorskip("executorch")
    folder = tmp_path_factory.mktemp("core-ml")
    return ExportJob(trained.module, trained.artifact, problem(64, seed=2)[0], folder, "student")


def test_int8_in_core_ml_is_a_quarter_of_fp32(int8_job, built):
    artifact = build(int8_job, INT8)
    found = artifact.provenance
    assert found["coverage"]["conv"] == {"fp16": 0, "fp32": 0, "int8": 7} and found["coverage"]["gemm"]["int8"] == 1
    assert found["minimum_deployment_target"] == "iOS 17, macOS 14" and found["calibration_images"] == 64
    weights = [max(part.stat().st_size for part in files_of(one.path)) for one in (artifact, built("coreml"))]
    assert weights[0] < 0.35 * weights[1]


def test_what_stays_in_float_in_core_ml(int8_job):
    scheme = INT8.options.scheme.model_copy(update={"exclude": ("net.fc",)})
    mine = INT8.model_copy(update={"options": INT8.options.model_copy(update={"scheme": scheme})})
    assert build(int8_job, mine).provenance["coverage"]["gemm"] == {"fp16": 1, "fp32": 0}


def test_int8_of_a_fixed_batch_of_floats_for_core_ml(fixed, tmp_path):
    pytest.importorskip("executorch")
    artifact = build(ExportJob(fixed.module, fixed.artifact, pixels(fixed.spec, 8), tmp_path, "plain"), INT8)
    assert artifact.provenance["coverage"]["conv"]["int8"] and artifact.provenance["calibration_images"] == 8


def test_a_tool_that_hangs_or_fails_is_stopped(trained, tmp_path, monkeypatch):
    target_of("ncnn")
    tool = tmp_path / "pnnx"
    job = ExportJob(trained.module, trained.artifact, problem(8, seed=2)[0], tmp_path / "out", "student")
    for script, words in (
        ("sleep 30", "did not end"),
        ("echo no such operator; exit 3", "exit status 3: no such operator"),
    ):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setitem(sys.modules, "pnnx", types.SimpleNamespace(EXEC_PATH=str(tool)))
        monkeypatch.setattr(to_ncnn, "PNNX_LIMIT_S", 2)
        with pytest.raises(KDCompressError, match=words):
            build(job, target_of("ncnn"))
        assert not list(job.folder.iterdir())


class Sorted(nn.Module):
    def forward(self, x):
        return x.flatten(1).sort(1).values[:, :4]


def test_an_operator_that_ncnn_does_not_have_is_named(tmp_path):
    spec = grey_spec()
    module = Deployable(Sorted(), spec).eval()
    parent = export_onnx(module, spec, tmp_path / "odd.onnx")
    job = ExportJob(module, parent, pixels(spec, 8), tmp_path / "out", "odd")
    with pytest.raises(KDCompressError, match="does not have every operator.*\n.*sort"):
        build(job, target_of("ncnn"))


class Attends(nn.Module):
    """Patches of 4x4, one attention; queries, keys and values are taken apart by unbind, or by index."""

    def __init__(self, unbound: bool):
        super().__init__()
        self.unbound = unbound
        self.patches, self.qkv, self.head = nn.Conv2d(1, 24, 4, 4), nn.Linear(24, 72), nn.Linear(24, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        parts = self.qkv(x).reshape(x.shape[0], 16, 3, 2, 12).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0) if self.unbound else (parts[0], parts[1], parts[2])
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 16, 24)
        return self.head(x.mean(1))


@pytest.mark.parametrize("unbound", [True, False])
def test_ncnn_takes_the_attention_of_transformers(unbound, tmp_path):
    spec = grey_spec()
    module = Deployable(Attends(unbound), spec).eval()
    parent = export_onnx(module, spec, tmp_path / "attends.onnx")
    artifact = build(ExportJob(module, parent, pixels(spec, 8), tmp_path / "out", "attends"), target_of("ncnn"))
    with open_runner(parent) as reference, open_runner(artifact) as runner:
        found = parity(reference, runner, pixels(spec, 8), spec)
    assert found, found.why


def test_an_operator_that_mnn_does_not_have_is_named(tmp_path):
    target_of("mnn")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("a", [1, 3, 3]), ("b", [1]))
    ]
    graph = helper.make_graph([helper.make_node("Foo", ["a"], ["b"], domain="my")], "odd", values[:1], values[1:])
    onnx.save(helper.make_model(graph), tmp_path / "odd.onnx")
    with pytest.raises(KDCompressError, match="MNN cannot convert this model.*\n.*\n.*ONNX::Foo"):
        to_mnn.convert("ONNX", tmp_path / "odd.onnx", "--MNNModel", tmp_path / "odd.mnn")
    with pytest.raises(KDCompressError, match="(?i)does not exist"):
        to_mnn.convert("ONNX", tmp_path / "none.onnx", "--MNNModel", tmp_path / "none.mnn")


def test_planes_of_pixels_give_the_same_logits(trained):
    net, example = planar(trained.module, trained.spec)
    image = example.byte().permute(0, 2, 3, 1)
    assert example.dtype == torch.float32 and tuple(example.shape) == (1, 1, 16, 16)
    torch.testing.assert_close(net(example), trained.module(image))


def test_a_model_that_keeps_a_tensor_is_traced_without_a_word(recwarn):
    class Keeps(SmallPlain):
        def forward(self, x):
            self.kept = x * 2
            return super().forward(x)

    planar(Deployable(Keeps(3, 5), colour_spec()), colour_spec())
    assert not [warning for warning in recwarn if "assigned during export" in str(warning.message)]


def test_a_model_that_begins_otherwise_is_refused():
    spec = colour_spec()

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SmallPlain(3, 5)

        def forward(self, x):
            return self.net((x // 2).permute(0, 3, 1, 2).float())

    with pytest.raises(KDCompressError, match="does not begin with"):
        planar(Mixed(), spec)


def test_four_channels_have_no_image_in_core_ml(tmp_path):
    spec = replace(grey_spec(), channels=2, mean=(0.5, 0.5), std=(0.2, 0.2))
    module = Deployable(SmallPlain(2, 4), spec).eval()
    parent = export_onnx(module, spec, tmp_path / "two.onnx")
    job = ExportJob(module, parent, pixels(spec, 8), tmp_path / "out", "two")
    for format in ("ncnn", "coreml"):
        with pytest.raises(UsageError, match="many channels"):
            build(job, target_of(format))
