"""ONNX files: what they hold and that they compute what PyTorch computes."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import onnx
import pytest
import torch
from export_nets import Normalised, SmallPlain, SmallResNet, colour_spec, grey_spec, labels, pixels
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import to_onnx
from kdcompress.export.describe import artifact_of, describe
from kdcompress.export.formats import open_runner
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.parity import parity


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("exported", ["trained", "fixed"])
def test_parity_with_torch(exported, batch, request):
    exported = request.getfixturevalue(exported)
    images = pixels(exported.spec, batch, seed=batch)
    with TorchRunner(exported.module, exported.spec) as torch_runner, open_runner(exported.artifact) as runner:
        found = parity(torch_runner, runner, images, exported.spec, "fp32")
    assert found, found.why


@pytest.mark.parametrize("spec", [grey_spec(layout="float-nchw"), colour_spec()])
def test_the_other_layouts(spec, tmp_path):
    module = Normalised(SmallPlain(spec.channels, spec.classes), spec)
    artifact = export_onnx(module, spec, tmp_path / "net.onnx", opset=18)
    with TorchRunner(module, spec) as torch_runner, open_runner(artifact) as runner:
        assert parity(torch_runner, runner, pixels(spec, 3), spec)
    assert not {"Gather", "Shape", "Range"} & set(describe(artifact.path)["nodes"])  # of adaptive pooling


def test_inputs_outputs_and_axes(trained, fixed):
    model = onnx.load(trained.artifact.path)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 16, 16, 1]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", 4]
    assert [d.dim_value for d in onnx.load(fixed.artifact.path).graph.input[0].type.tensor_type.shape.dim] == [
        2,
        3,
        16,
        20,
    ]
    assert model.opset_import[0].version == 20
    assert not {"BatchNormalization", "Dropout"} & {node.op_type for node in model.graph.node}


def test_metadata_is_enough_to_use_the_file(trained):
    facts = {prop.key: prop.value for prop in onnx.load(trained.artifact.path).metadata_props}
    assert json.loads(facts["labels"]) == list(labels(4)) and facts["layout"] == "uint8-nhwc"
    assert json.loads(facts["mean"]) == [0.3] and json.loads(facts["std"]) == [0.3]
    assert facts["recipe"] == "test" and facts["kdcompress.version"] and facts["kdcompress.precision"] == "fp32"
    found = artifact_of(trained.artifact.path)
    assert found.input == trained.spec and found.sha256 == trained.artifact.sha256


class Tokens(nn.Module):
    """Linear layers over tokens, one of them twice, and a product of two activations."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8))
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = self.mix(self.mix(tokens).relu())
        return self.head((tokens @ tokens.transpose(1, 2) @ tokens).mean(1))


def test_layers_have_the_paths_of_their_modules(tmp_path):
    module = Normalised(Tokens(), colour_spec()).eval()
    model = onnx.load(export_onnx(module, colour_spec(), tmp_path / "tokens.onnx").path)
    names = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(names) == len(set(names)) == 6
    assert {"net.stem.0", "net.mix", "net.head"} < set(names)


def test_one_file_without_debug_information(trained):
    path = trained.artifact.path
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    model = onnx.load(path)
    for thing in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer, model.graph):
        assert not thing.metadata_props and not thing.doc_string
    assert b"/site-packages/" not in path.read_bytes()
    weights = sum(p.numel() for p in trained.module.parameters()) * 4
    assert path.stat().st_size < weights + 8_000


def test_the_module_is_left_as_it_was(fixed, tmp_path, capfd, caplog):
    module = Normalised(SmallResNet(3, 5), fixed.spec).train()
    module.net.body.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    with caplog.at_level(logging.INFO):
        export_onnx(module, fixed.spec, tmp_path / "net.onnx")
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    out, err = capfd.readouterr()
    assert not out and not err and not caplog.records


@pytest.mark.parametrize("opset", [7, 17, 24])
def test_unsupported_opset(trained, opset, tmp_path):
    with pytest.raises(UsageError, match="18 to 23") as caught:
        export_onnx(trained.module, trained.spec, tmp_path / "net.onnx", opset=opset)
    assert str(opset) in str(caught.value)
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, x):
        pixels = x.float().reshape(x.shape[0], -1)[:, :4]
        return pixels if x.sum() > 0 else -pixels


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.float().reshape(2, 256)[:, :4]


class Noisy(nn.Module):
    def forward(self, x):
        return x.float().reshape(x.shape[0], -1)[:, :4] + torch.rand(x.shape[0], 4)


class NotANumber(nn.Module):
    def forward(self, x):
        return x.float().reshape(x.shape[0], -1)[:, :4] / 0


class FiveOutputs(nn.Module):
    def forward(self, x):
        return x.float().reshape(x.shape[0], -1)[:, :5]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Branching(), "cannot export"),
        (FixedBatch(), "does not run"),
        (Noisy(), "other logits for the same image"),
        (NotANumber(), "not finite"),
        (FiveOutputs(), "does not fit its labels"),
    ],
)
def test_a_model_that_cannot_be_exported_says_why(module, words, tmp_path):
    with pytest.raises(KDCompressError, match=words) as caught:
        export_onnx(module, grey_spec(), tmp_path / "net.onnx")
    assert type(module).__name__ in str(caught.value)
    assert caught.value.hint or not isinstance(module, Noisy)
    assert "Traceback" not in str(caught.value) and len(str(caught.value).splitlines()) <= 5
    assert not list(tmp_path.iterdir())


def test_a_branch_on_a_value_is_named_by_its_line(tmp_path):
    with pytest.raises(KDCompressError) as caught:
        export_onnx(Branching(), grey_spec(), tmp_path / "net.onnx")
    assert re.search(r"where: Branching, .*; .*test_to_onnx.py, line \d+, in forward", str(caught.value))


@pytest.mark.parametrize("wrong", ["old weight norm", "kept"])
def test_what_a_forward_leaves_on_the_model_does_not_matter(wrong, tmp_path):
    layer = nn.Linear(256, 4)
    net = nn.Sequential(nn.Flatten(), torch.nn.utils.weight_norm(layer) if wrong == "old weight norm" else layer)

    class Floats(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            self.kept = self.net(x.float())
            return self.kept

    module = Floats()
    assert module(torch.zeros(2, 16, 16, 1, dtype=torch.uint8)).requires_grad
    export_onnx(module, grey_spec(), tmp_path / "net.onnx")
    assert module.kept.requires_grad


def test_the_numbers_of_a_network_that_nobody_trained_are_not_judged(tmp_path):
    export_onnx(NotANumber(), grey_spec(), tmp_path / "net.onnx", trained=False)
    with pytest.raises(KDCompressError, match="does not run"):
        export_onnx(FixedBatch(), grey_spec(), tmp_path / "net.onnx", trained=False)


def test_a_corrupt_file_is_a_usage_error(trained, tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(trained.artifact.path.read_bytes()[:5000])
    artifact = trained.artifact.of(damaged, "onnx", "fp32", trained.spec)
    with pytest.raises(UsageError, match="cannot load"), open_runner(artifact):
        pass
    damaged.unlink()
    with pytest.raises(UsageError, match="no such"), open_runner(artifact):
        pass


def test_torch_runner_puts_the_mode_back():
    spec = InputSpec(8, 8, 1, (0.5,), (0.5,), labels(4))
    module = Normalised(SmallPlain(1, 4), spec).train()
    with TorchRunner(module, spec) as runner:
        first, second = (runner.infer(pixels(spec, 2))[0] for _ in range(2))
        assert not module.training
    assert module.training and np.array_equal(first, second) and first.dtype == np.float32


def test_details_name_the_runtime(trained):
    with open_runner(trained.artifact, threads=1) as runner:
        found = runner.details()
    assert found["version"] and found["threads"] == 1 and found["providers"] == ["CPUExecutionProvider"]


class Cancelling(nn.Module):
    """Two sums of the same products in another order, taken from each other: what is left is how they round."""

    def __init__(self, gain: float):
        super().__init__()
        self.spec, self.gain = colour_spec(), gain
        size = self.spec.height * self.spec.width * self.spec.channels
        weight = torch.randn(self.spec.classes, size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("order", torch.randperm(size, generator=torch.Generator().manual_seed(1)))
        self.one, self.other = nn.Linear(size, self.spec.classes), nn.Linear(size, self.spec.classes, bias=False)
        with torch.no_grad():
            self.one.weight.copy_(weight)
            self.other.weight.copy_(weight[:, self.order])

    def forward(self, x):
        pixels = x.flatten(1).to(self.one.weight.dtype) / 3
        return self.gain * (self.one(pixels) - self.other(pixels[:, self.order])) + self.one.bias


def test_a_file_may_differ_by_what_pytorch_itself_rounds(tmp_path, monkeypatch):
    module = Cancelling(1e4)
    assert export_onnx(module, module.spec, tmp_path / "net.onnx").precision == "fp32"
    monkeypatch.setattr(to_onnx, "ROUNDED", 0.0)
    with pytest.raises(KDCompressError, match="differ from PyTorch's at batch size"):
        export_onnx(module, module.spec, tmp_path / "net.onnx")
