"""Operators that MNN and ncnn compute otherwise, or not at all, are written out by others: docs/upstream.md."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from export_nets import grey_spec, pixels
from torch import nn
from torch.nn import functional as F

from kdcompress.export import graph, to_mnn, to_ncnn
from kdcompress.export.formats import ExportJob, build, open_runner, target
from kdcompress.export.planar import planar
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.deployable import Deployable


class Tokens(nn.Module):
    """Patches as 16 tokens of 8 channels, something done with them, and four logits that no token is left out of."""

    def __init__(self, what):
        super().__init__()
        self.what, self.patches, self.norm, self.head = what, nn.Conv2d(1, 8, 4, 4), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.mix = nn.Linear(8, 8, bias=False)
        self.register_buffer("order", torch.linspace(0.5, 2.0, 16).view(1, 16, 1))

    def forward(self, x):
        x = self.what(self.patches(x).flatten(2).transpose(1, 2) * self.order, self)
        return self.head((x * self.order[:, : x.shape[1]]).mean(1))


def rows(x, self):
    x = self.mix(x)
    return self.norm(x.flatten(0, 1)).reshape_as(x)


def rooted(x, _):
    return F.normalize(x.transpose(1, 2), dim=-1).transpose(1, 2)


WHAT = {
    "alias": lambda x, _: x[:, :, :8],
    "addcmul": lambda x, _: torch.addcmul(x, x, x, value=0.5),
    "steps of tokens": lambda x, _: x[:, 1::2],
    "steps of a grid": lambda x, _: x.view(-1, 4, 4, 8)[:, ::2, ::2].reshape(-1, 4, 8),
    "steps as long as the side": lambda x, _: x.view(-1, 4, 4, 8)[:, ::4, ::2].reshape(-1, 2, 8),
    "steps of channels": lambda x, _: torch.cat((x[..., ::2], -x[..., 1::2]), -1),
    "norm": rooted,
    "unequal chunks": lambda x, _: torch.cat([part * (i + 1.0) for i, part in enumerate(x.chunk(3, -1))], -1),
}


@pytest.mark.parametrize("name", WHAT)
def test_ncnn_gives_what_pytorch_gives(name, tmp_path):
    pytest.importorskip("pnnx")
    pytest.importorskip("ncnn")
    torch.manual_seed(0)
    spec = grey_spec()
    net = Tokens(WHAT[name])
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    module = Deployable(net, spec).eval()
    images = pixels(spec, 4)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    job = ExportJob(module, SimpleNamespace(input=spec, sha256=""), images, tmp_path, "tokens")
    with open_runner(to_ncnn.write(job, target("ncnn-fp32"))) as runner:
        np.testing.assert_allclose(runner.infer(images)[0], expected, atol=2e-6 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the images are told apart


def test_normalised_rows_are_scaled():
    """pnnx makes no file of this small net, whatever the rows are divided by; of LeviT's it does."""
    torch.manual_seed(0)
    net = Tokens(rows)
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    module = Deployable(net, grey_spec()).eval()
    traced, example = planar(module, grey_spec())
    with torch.no_grad():
        expected = traced(example)
        to_ncnn._plain(traced.graph)
        traced.recompile()
        torch.testing.assert_close(traced(example), expected)
    assert not [node for node in traced.graph.nodes if "batch_norm" in str(node.target)]


class Smooth(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.gelu(4 * self.first(x)).mean((2, 3)))


def test_mnn_computes_the_gelu_that_was_asked_for(tmp_path):
    pytest.importorskip("MNN")
    torch.manual_seed(0)
    spec = grey_spec()
    module = Deployable(Smooth(), spec).eval()
    parent = export_onnx(module, spec, tmp_path / "smooth.onnx")
    assert "Gelu" in {node.op_type for node in graph.load(parent.path).graph.node}
    images = pixels(spec, 8)
    with open_runner(parent) as runner:
        (expected,) = runner.infer(images)
    errors = {}
    for precision in ("fp32", "fp16"):
        asked = target("mnn-fp32").model_copy(update={"precision": precision, "name": precision})
        with open_runner(build(ExportJob(module, parent, images, tmp_path, "smooth"), asked)) as runner:
            errors[precision] = np.abs(runner.infer(images)[0] - expected).max() / np.abs(expected).max()
    assert errors["fp32"] < 3e-6 < errors["fp16"] < 1e-2


def test_a_gelu_by_tanh_stays_as_it_is():
    nodes = [
        onnx.helper.make_node("Gelu", ["x"], ["y"], name="exact"),
        onnx.helper.make_node("Gelu", ["y"], ["z"], name="tanh", approximate="tanh"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", [], []))
    to_mnn.write_out_gelus(model)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Erf", "Mul", "Add", "Mul", "Gelu"]
    assert model.graph.node[4].output[0] == "y" and len(model.graph.initializer) == 2
    before = model.SerializeToString()
    to_mnn.write_out_gelus(model)
    assert model.SerializeToString() == before
