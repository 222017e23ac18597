"""Layers of MNN, ncnn and .ort files as their runtimes run them here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from export_nets import grey_spec, pixels, problem
from onnx import numpy_helper
from test_mobile import Attends

from kdcompress.artifact import Artifact
from kdcompress.errors import UsageError
from kdcompress.export import graph, to_mnn
from kdcompress.export.formats import ExportJob, availability, build, target
from kdcompress.export.layers import readers
from kdcompress.export.ncnn_layers import Entry, entries, matched
from kdcompress.export.node_macs import macs
from kdcompress.export.parts import parts
from kdcompress.export.to_onnx import export_onnx
from kdcompress.export.turns import in_turns, unlike
from kdcompress.models.deployable import Deployable

N = 11
FILES = ["mnn-fp32", "android-mnn", "ncnn-fp32", "android-ncnn", "amd64-ort"]
WRONG = "net.body.1.conv1"
CONVOLUTIONS = ["net.stem", *(f"net.body.{i}.{name}" for i in (0, 1) for name in ("conv1", "conv2", "short"))]


def here(name):
    can_build, can_run, why, _ = availability(target(name))
    if not (can_build and can_run):
        pytest.skip(why)
    return target(name)


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory):
    """The trained net's file for a target, built when first asked for."""
    folder, made = tmp_path_factory.mktemp("layers"), {}
    job = ExportJob(trained.module, trained.artifact, problem(64, seed=2)[0], folder, "student")

    def get(name):
        if name not in made:
            made[name] = build(job, here(name))
        return made[name]

    return get


def read(artifact, parent, count=N, seed=3):
    spec = artifact.input
    images = pixels(spec, count * (spec.batch or 1), seed)
    queries = [spec.prepare(part) for part in np.split(images, count)]
    return readers[target(artifact.target).runtime](artifact, queries, 1, parent), queries


def by_node(found):
    return {part: layer for layer in found.layers for part in layer.made_of}


@pytest.mark.parametrize("name", FILES)
def test_every_convolution_is_there(name, built, trained):
    found, _ = read(built(name), trained.artifact)
    layers = by_node(found)
    shapes = [(16, 16, 16), *[(32, 8, 8)] * 3, *[(64, 4, 4)] * 3]
    for node, shape in zip(CONVOLUTIONS, shapes, strict=True):
        layer = layers[node]
        assert layer.precision == ("int8" if name == "amd64-ort" else layer.precision) != ""
        assert layer.precision != "fp16" or target(name).precision == "fp16"
        assert layer.shape in ((1, *shape), (1, *shape[1:], shape[0])) and "Conv" in layer.kind
        assert layer.times.shape == (N,) and (layer.times > 0).all()
        if name != "amd64-ort":
            assert np.isfinite(layer.snr_db) and layer.snr_db > (80 if target(name).precision == "fp32" else 35)
    assert {layers[f"node_relu{end}"].name for end in ("", "_1", "_3")} == {
        layers[node].name for node in ("net.stem", "net.body.0.conv1", "net.body.1.conv1")
    }
    assert sum(layer.macs or 0 for layer in found.layers) == sum(
        macs(graph.load(trained.artifact.path), "image", trained.spec.prepare(problem(1, seed=3)[0])).values()
    )
    whole, together = np.median(found.whole), np.median(sum(layer.times for layer in found.layers))
    assert 0.05 < together / whole < 20 and len({layer.name for layer in found.layers}) == len(found.layers)


@pytest.mark.parametrize("name", ["mnn-fp32", "ncnn-fp32"])
def test_a_wrong_weight_is_seen_where_it_is(name, built, trained, tmp_path):
    """The file against a parent one of whose weights is another."""
    model = onnx.load(trained.artifact.path)
    weight = next(i for i in model.graph.initializer if i.name.startswith(WRONG) and len(i.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values[3] += 1.0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    wrong = Artifact.of(tmp_path / "wrong.onnx", "onnx", "fp32", trained.spec)
    layers = by_node(read(built(name), wrong)[0])
    before, after = CONVOLUTIONS[:4], [WRONG, "net.body.1.conv2", "net.fc"]
    assert all(layers[node].snr_db > 80 for node in (*before, "net.body.1.short"))
    assert all(layers[node].snr_db < 30 for node in after)


@pytest.mark.parametrize("name", ["mnn-fp32", "ncnn-fp32", "amd64-ort"])
def test_without_its_parent_a_file_has_its_own_names(name, built):
    found, _ = read(built(name), None)
    assert found.layers and not any(layer.snr_db for layer in found.layers)
    assert sum(layer.macs or 0 for layer in found.layers) > 0 or name == "amd64-ort"


@pytest.mark.parametrize("name", ["mnn-fp32", "ncnn-fp32"])
def test_a_fixed_batch_of_floats_depthwise_and_pooled(name, fixed, tmp_path):
    torch.manual_seed(0)
    module = fixed.module.eval()
    job = ExportJob(module, fixed.artifact, pixels(fixed.spec, 8), tmp_path, "plain")
    found, queries = read(build(job, here(name)), fixed.artifact)
    counted = macs(graph.load(fixed.artifact.path), "image", queries[0])
    layers = by_node(found)
    for node, expected in counted.items():
        assert layers[node].macs == expected, node
        assert layers[node].snr_db is None or layers[node].snr_db > 80
    assert layers["net.features.0"].shape == (2, 12, 8, 10)
    assert any("one by one" in note for note in found.notes) == (name == "ncnn-fp32")


@pytest.mark.parametrize("name", ["mnn-fp32", "ncnn-fp32"])
def test_the_products_of_an_attention_are_counted(name, tmp_path):
    spec = grey_spec()
    torch.manual_seed(0)
    module = Deployable(Attends(True), spec).eval()
    parent = export_onnx(module, spec, tmp_path / "attends.onnx")
    job = ExportJob(module, parent, pixels(spec, 8), tmp_path / "out", "attends")
    found, queries = read(build(job, here(name)), parent)
    counted = macs(graph.load(parent.path), "image", queries[0])
    assert sum(layer.macs or 0 for layer in found.layers) == sum(counted.values())
    known = [layer.snr_db for layer in found.layers if layer.snr_db is not None]
    assert len(known) >= 3 and min(known) > 80


@pytest.mark.parametrize("name", ["mnn-fp32", "ncnn-fp32"])
def test_a_file_that_does_not_load_is_explained(name, built, tmp_path):
    good = built(name)
    path = tmp_path / good.path.name
    if good.path.is_dir():
        path.mkdir()
        (path / "model.ncnn.param").write_bytes((good.path / "model.ncnn.param").read_bytes())
        (path / "model.ncnn.bin").write_bytes(b"short")
    else:
        path.write_bytes(good.path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot load"):
        read(replace(good, path=path), None)


def test_nodes_between_the_tensors_of_layers():
    def node(kind, reads, gives):
        return onnx.helper.make_node(kind, reads, [gives], name=f"node {gives}")

    nodes = [
        node("Conv", ["x", "w"], "a"),
        node("Relu", ["a"], "b"),
        node("Erf", ["b"], "c"),
        node("Mul", ["c", "b"], "d"),
        node("Transpose", ["b"], "e"),
        node("Add", ["d", "e"], "f"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", [], []))
    assert parts(model, ["b", "", "d", "f"]) == [
        ("node a", "node b"),
        (),
        ("node c", "node d"),
        ("node e", "node f"),
    ]
    assert parts(model, ["f", "f"])[1] == ()  # no node is in two


def test_an_ncnn_file_is_read_by_hand(tmp_path):
    (tmp_path / "model.ncnn.param").write_text(
        "7767517\n4 4\n"
        "Input in0 0 1 in0\n"
        "ConvolutionDepthWise dw 1 1 in0 1 0=8 1=3 6=72 7=8 9=6\n"
        "Deconvolution up 1 1 1 2 0=4 1=2 3=2 6=128\n"
        "Slice cut 1 2 2 3 4 -23300=2,1,-233 1=0\n"
    )
    _, depthwise, up, cut = entries(tmp_path)
    assert depthwise.activation == "HardSwish" and depthwise.weights == (72, 8)
    assert depthwise.macs([(8, 5, 5)], (8, 5, 5)) == 8 * 25 * 9
    assert up.macs([(8, 5, 5)], (4, 10, 10)) == 25 * 128 and up.activation == ""
    assert cut.outputs == ("3", "4") and cut.numbers == {1: 0.0} and cut.macs([(4, 10, 10)], (1, 10, 10)) is None
    attention = Entry("SDPA", "sdpa", ("q", "k", "v"), ("o",), {})
    assert attention.macs([(3, 17, 64), (3, 9, 64), (3, 9, 32)], (3, 17, 32)) == 3 * 17 * 9 * (64 + 32)
    product = Entry("Gemm", "gemm", ("x",), ("y",), {5: 1.0, 7: 17.0, 8: 576.0, 9: 192.0})
    assert product.macs([(17, 192)], (17, 576)) == 17 * 192 * 576 and product.weights == (192 * 576, 576)


def test_an_activation_that_the_parent_writes_otherwise_has_no_error(fixed):
    """ncnn's layer gives what several nodes of the parent give: its own node is known, its value is not compared."""
    model = graph.load(fixed.artifact.path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    sizes = next(tuple(i.dims) for i in model.graph.initializer if i.name == conv.input[1])
    layer = Entry("Convolution", "conv", ("in0",), ("1",), {0: sizes[0], 6: float(np.prod(sizes)), 9: 5.0})
    (found,) = matched([layer], model)
    assert found.nodes == (conv.name,) and found.tensor == ""


def test_the_text_of_an_mnn_file_is_asked_for_once(built, trained, monkeypatch):
    artifact, asked = built("mnn-fp32"), []
    real = to_mnn.contents
    monkeypatch.setattr("kdcompress.export.layers_mnn.contents", lambda path: asked.append(path) or real(path))
    read(artifact, trained.artifact, count=2)
    assert asked == [artifact.path]


def test_turns_and_names():
    ran = []
    runs = [lambda query, i=i: ran.append(i) or (i, int(query[0])) for i in range(2)]
    found = in_turns(runs, [np.array([k]) for k in range(6)])
    assert [gave for _, gave in found] == [[(i, k) for k in range(6)] for i in range(2)]
    assert all(times.shape == (6,) and (times >= 0).all() for times, _ in found)
    turns = ran[10:]  # after the warm-up
    assert len(turns) == 24 and all(turns[at] == turns[at + 1] for at in range(0, 24, 2))
    assert 0 < sum(turns[0::4]) < 6  # not always the same one first
    assert unlike(["a", "b", "a", "a"]) == ["a", "b", "a.2", "a.3"]
