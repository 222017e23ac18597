"""What int8 breaks by what it computes, and layers in int8 alone."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kdcompress.artifact import InputSpec
from kdcompress.export import fragile, graph
from kdcompress.export.alone import Alone
from kdcompress.export.formats import ExportJob, build, open_runner, target
from kdcompress.export.quantize import as_quantised, prepare
from kdcompress.export.run_onnxruntime import open_session_of
from kdcompress.export.sensitivity import output_error
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.deployable import Deployable
from kdcompress.runner import infer_all

SPEC = InputSpec(16, 16, 1, (0.5,), (0.25,), tuple("abcd"))
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 1), dtype=np.uint8)


class Attention(nn.Module):
    """Among the places of a map, by ``kind``: linear attention, whose sums are divided by their weights' sum; softmax;
    or cosines, which are divided by lengths."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.stem = kind, nn.Conv2d(1, 8, 4, 4)
        self.queries, self.values, self.head = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        (q, k), v = self.queries(x).chunk(2, -1), self.values(x)
        if self.kind == "linear":
            sums = q.relu() @ (k.relu().transpose(1, 2) @ nn.functional.pad(v, (0, 1), value=1.0))
            x = sums[..., :-1] / (sums[..., -1:] + 1e-3)
        elif self.kind == "softmax":
            x = (q @ k.transpose(1, 2)).softmax(-1) @ v
        else:
            x = nn.functional.normalize(q, dim=-1) @ (nn.functional.normalize(k, dim=-1).transpose(1, 2) @ v)
        return self.head(x.mean(1))


@pytest.fixture(scope="module", params=["linear", "softmax", "cosine"])
def job(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    module = Deployable(Attention(request.param).eval(), SPEC).eval()
    return ExportJob(module, export_onnx(module, SPEC, folder / "student.onnx"), IMAGES, folder, request.param)


def with_scheme(**changes):
    found = target("x86-vnni")
    scheme = found.options.scheme.model_copy(update=changes)
    return found.model_copy(update={"options": found.options.model_copy(update={"scheme": scheme})})


def outputs(artifact):
    with open_runner(artifact) as runner:
        return infer_all(runner, IMAGES, SPEC)


def read_in_int8(path):
    """The names of the layers that read int8 activations, and those whose outputs are rounded."""
    model = onnx.load(path)
    maker = {output: node for node in model.graph.node for output in node.output}
    rounds = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    layers = [node for node in model.graph.node if node.op_type in graph.LAYERS]
    reads = {n.name for n in layers if n.input[0] in maker and maker[n.input[0]].op_type == "DequantizeLinear"}
    return reads, {node.name for node in layers if node.output[0] in rounds}


def test_the_divisors_of_linear_attention_stay_in_float_and_no_others(job, monkeypatch):
    model = graph.load(job.parent.path)
    products, divisors = fragile.products(model), fragile.divisors(model)
    assert len(products) == 2
    if job.stem != "linear":
        assert divisors == []
        return
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert {kinds[name] for name in divisors} >= {"MatMul", "Slice", "Add"} and divisors[0] in products
    held = output_error(SPEC, outputs(job.parent), outputs(build(job, target("x86-vnni"))))
    assert not read_in_int8(job.folder / "linear-x86-vnni.onnx")[0] & set(divisors)
    monkeypatch.setattr(fragile, "divisors", lambda model: [])
    assert held < 0.5 * output_error(SPEC, outputs(job.parent), outputs(build(job, target("x86-vnni"))))


def test_matrix_products_can_give_their_sums_as_they_are(job):
    usual = build(job, with_scheme(op_types=graph.LAYERS))
    reads, rounded = read_in_int8(usual.path)
    before = usual.provenance["coverage"]
    found = build(job, with_scheme(op_types=graph.LAYERS, outputs="convolutions"))
    again, left = read_in_int8(found.path)
    assert reads == again and "net.stem" in left and "net.values" in rounded - left
    assert found.provenance["coverage"]["gemm"] == before["gemm"] and before["gemm"]["int8"] >= 3


def test_all_layers_at_once_lose_what_the_int8_file_loses_and_none_is_the_parent(job, tmp_path):
    changed = with_scheme(op_types=graph.LAYERS)
    artifact, prepared = build(job, changed), tmp_path / "prepared.onnx"
    prepare(as_quantised(job, changed.options.scheme), prepared)
    alone = Alone(graph.load(prepared), graph.load(artifact.path))
    wanted, x = [output.name for output in SPEC.outputs], SPEC.prepare(IMAGES)

    def run(names):
        return open_session_of(alone.of(names), wanted).run(wanted, {SPEC.name: x})

    expected = outputs(job.parent)
    error = output_error(SPEC, expected, outputs(artifact))
    np.testing.assert_allclose(run([])[0], expected[0], atol=1e-5)
    assert 0.5 * error < output_error(SPEC, expected, tuple(run(list(alone.layers)))) < 2 * error
    one = output_error(SPEC, expected, tuple(run(["net.values"])))
    assert 0 < one < 1.5 * error
