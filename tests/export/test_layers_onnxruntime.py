"""ONNX files layer by layer, by ONNX Runtime's profiler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from export_nets import Normalised, SmallResNet, colour_spec, pixels, problem

from kdcompress.bench.layers import falls, stayed_float
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import graph, layers_onnxruntime
from kdcompress.export.describe import artifact_of
from kdcompress.export.formats import ExportJob, build, target
from kdcompress.export.layers_onnxruntime import read
from kdcompress.export.made_of import MULTIPLY
from kdcompress.export.node_macs import macs
from kdcompress.export.to_onnx import export_onnx

N = 24
# Of SmallResNet on 16x16: output places x output channels x (input channels x kernel)
BY_HAND = {
    "net.stem": 256 * 16 * 9,
    "net.body.0.conv1": 64 * 32 * 16 * 9,
    "net.body.0.conv2": 64 * 32 * 32 * 9,
    "net.body.0.short": 64 * 32 * 16,
    "net.body.1.conv1": 16 * 64 * 32 * 9,
    "net.body.1.conv2": 16 * 64 * 64 * 9,
    "net.body.1.short": 16 * 64 * 32,
    "net.fc": 64 * 4,
}


def queries(spec, images, count=N):
    size = spec.batch or 1
    return [spec.prepare(images[np.arange(i, i + size) % len(images)]) for i in range(count)]


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """The fp32 file, and its fp16 and int8 forms, by precision."""
    job = ExportJob(
        trained.module, trained.artifact, problem(128, seed=2)[0], tmp_path_factory.mktemp("layers"), "student"
    )
    return {"fp32": trained.artifact} | {
        target(name).precision: build(job, target(name)) for name in ("x86-vnni", "onnx-fp16")
    }


@pytest.fixture(scope="module")
def profiles(files):
    images = problem(64, seed=3)[0]
    return {name: read(each, queries(each.input, images), 1, files["fp32"]) for name, each in files.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_layer_has_its_figures(precision, profiles, files):
    found = profiles[precision]
    assert found.runtime == "onnxruntime-cpu" and found.version and found.threads == 1 and not found.notes
    assert found.whole.shape == (N,) and (found.whole > 0).all()
    names = [layer.name for layer in found.layers]
    assert len(names) == len(set(names)) > 8
    for layer in found.layers:
        assert layer.kind and layer.shape and layer.times.shape == (N,) and (layer.times > 0).all(), layer
    total = np.median(sum(layer.times for layer in found.layers))
    assert 0.1 < total / np.median(found.whole) < 20


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_layers_are_made_of_the_parents_nodes(precision, profiles, files):
    nodes = {node.name: node.op_type for node in graph.load(files["fp32"].path).graph.node}
    made = [part for layer in profiles[precision].layers for part in layer.made_of]
    assert len(made) == len(set(made)) and set(made) == set(nodes)  # each node is somewhere, and once
    for layer in profiles[precision].layers:
        multiplied = [part for part in layer.made_of if nodes[part] in MULTIPLY]
        assert layer.macs == (sum(BY_HAND[part] for part in multiplied) if multiplied else None), layer
        assert len(multiplied) <= 1 and bool(multiplied) == any(word in layer.kind for word in ("Conv", "Gemm"))


def test_what_is_fused_is_said(profiles, files):
    """On every processor a convolution takes the activation behind it; what it is called is the machine's matter."""
    nodes = {node.name: node.op_type for node in graph.load(files["fp32"].path).graph.node}
    stem = next(layer for layer in profiles["fp32"].layers if "net.stem" in layer.made_of)
    assert [nodes[part] for part in stem.made_of] == ["Conv", "Relu"] and stem.kind.endswith("Conv+Relu")
    assert stem.shape == (1, 16, 16, 16) and stem.precision == "fp32"


def test_the_precision_of_each_layer(profiles):
    heavy = {name: [layer for layer in found.layers if layer.macs] for name, found in profiles.items()}
    assert {layer.precision for layer in heavy["int8"]} == {"int8"}
    assert {layer.precision for layer in heavy["fp32"]} == {"fp32"}
    assert {layer.precision for layer in heavy["fp16"]} <= {"fp32", "fp16"}  # most CPUs have no fp16 kernels
    assert {layer.precision for layer in profiles["fp32"].layers if layer.kind == "Transpose"} == {""}


def test_errors_are_those_of_the_precision(profiles):
    errors = {name: [layer.snr_db for layer in found.layers if layer.macs] for name, found in profiles.items()}
    assert set(errors["fp32"]) == {None}  # the parent itself
    assert all(45 < each < 110 for each in errors["fp16"]), errors["fp16"]
    assert all(12 < each < 60 for each in errors["int8"]), errors["int8"]
    assert not falls(profiles["fp16"]) and not stayed_float(profiles["int8"])


def test_a_layer_that_is_wrong_is_found(files, tmp_path):
    """The scale of one weight is four times what it was."""
    model = onnx.load(files["int8"].path)
    layer = next(node for node in model.graph.node if node.name == "net.body.1.conv1")
    restored = next(node for node in model.graph.node if layer.input[1] in node.output)
    scale = next(i for i in model.graph.initializer if i.name == restored.input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(4 * onnx.numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    wrong = artifact_of(tmp_path / "wrong.onnx")
    found = read(wrong, queries(wrong.input, problem(16, seed=3)[0]), 1, files["fp32"])
    first = falls(found, set(BY_HAND))[0]
    assert first["name"] == "net.body.1.conv1" and first["snr_db"] < 10 < first["before_db"]


def test_a_layer_that_stays_float_is_named(trained, tmp_path):
    found = target("x86-vnni")
    scheme = found.options.scheme.model_copy(update={"exclude": ("net.body.0.conv2",)})
    found = found.model_copy(update={"options": found.options.model_copy(update={"scheme": scheme})})
    job = ExportJob(trained.module, trained.artifact, problem(64, seed=2)[0], tmp_path, "student")
    artifact = build(job, found)
    profile = read(artifact, queries(artifact.input, problem(16, seed=3)[0], 12), 1, trained.artifact)
    assert stayed_float(profile, set(BY_HAND)) == ["net.body.0.conv2"]


def test_colours_and_their_normalisation(tmp_path):
    """With a mean for each channel an int8 file has a convolution that the parent has not."""
    torch.manual_seed(0)
    spec = colour_spec(labels=("a", "b", "c", "d"))
    net = Normalised(SmallResNet(3, 4), spec).eval()
    parent = export_onnx(net, spec, tmp_path / "student.onnx")
    int8 = build(ExportJob(net, parent, pixels(spec, 64), tmp_path, "student"), target("x86-vnni"))
    found = read(int8, queries(spec, pixels(spec, 16, seed=1), 12), 1, parent)
    counted = macs(graph.load(parent.path), "image", pixels(spec, 1))
    assert sum(layer.macs or 0 for layer in found.layers) == sum(counted.values())
    nodes = {node.name for node in graph.load(parent.path).graph.node}
    assert {part for layer in found.layers for part in layer.made_of} == nodes
    assert all(layer.snr_db > 10 for layer in found.layers if layer.macs)


def test_of_a_fixed_batch_of_floats_without_a_parent(fixed):
    spec = fixed.spec
    found = read(fixed.artifact, queries(spec, pixels(spec, 32), 12), 2, None)
    assert found.threads == 2 and "was not given" in found.notes[0]
    nodes = {node.name for node in graph.load(fixed.artifact.path).graph.node}
    assert {part for layer in found.layers for part in layer.made_of} <= nodes
    first = next(layer for layer in found.layers if layer.macs)
    assert first.macs == 2 * 8 * 10 * 12 * 27  # two images a query
    assert {layer.snr_db for layer in found.layers} == {None}


def test_a_parent_of_another_batch(trained, files):
    """The parent takes any number of images, the file two at a time."""
    spec = replace(trained.spec, batch=2)
    path = files["int8"].path.with_name("two.onnx")
    two = export_onnx(trained.module, spec, path)
    found = read(two, queries(spec, problem(32, seed=3)[0], 12), 1, files["fp32"])
    assert sum(layer.macs or 0 for layer in found.layers) == 2 * sum(BY_HAND.values())
    assert all(layer.snr_db > 90 for layer in found.layers if layer.macs and layer.snr_db)


def looping(path):
    """Three turns of a product and a sum: their operators run inside one."""
    helper, number = onnx.helper, onnx.TensorProto
    values = {"weight": np.eye(4, dtype=np.float32), "times": np.array(3), "go": np.array(True)}
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"], name="inner"),
            helper.make_node("Add", ["product", "x"], ["y"], name="inner_sum"),
            helper.make_node("Identity", ["on"], ["on_out"], name="inner_go"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", number.INT64, []),
            helper.make_tensor_value_info("on", number.BOOL, []),
            helper.make_tensor_value_info("x", number.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on_out", number.BOOL, []),
            helper.make_tensor_value_info("y", number.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Relu", ["image"], ["start"], name="first"),
        helper.make_node("Loop", ["times", "go", "start"], ["turned"], name="loop", body=body),
        helper.make_node("Relu", ["turned"], ["logits"], name="last"),
    ]
    made = helper.make_graph(
        nodes,
        "looping",
        [helper.make_tensor_value_info("image", number.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", number.FLOAT, [1, 3, 4, 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_operators_inside_others_are_not_counted_twice(tmp_path):
    from kdcompress.export.foreign import foreign_artifact

    looping(tmp_path / "loop.onnx")
    artifact = foreign_artifact(tmp_path / "loop.onnx")
    found = read(artifact, queries(artifact.input, pixels(artifact.input, 4), 12), 1, None)
    assert [layer.kind for layer in found.layers] == ["Relu", "Loop", "Relu"]
    assert any("Operators inside" in note for note in found.notes)
    assert all(layer.times.shape == (12,) for layer in found.layers)


def test_nodes_without_names_are_known_by_what_they_give(trained, tmp_path):
    model = onnx.load(trained.artifact.path)
    gives = {node.output[0] for node in model.graph.node}
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "nameless.onnx")
    artifact = artifact_of(tmp_path / "nameless.onnx")
    found = read(artifact, queries(artifact.input, problem(8, seed=3)[0], 12), 1, None)
    names = [layer.name for layer in found.layers]
    assert len(set(names)) == len(names) and all(names)
    assert {part for layer in found.layers for part in layer.made_of} == gives
    assert sum(layer.macs or 0 for layer in found.layers) == sum(BY_HAND.values())


def test_files_that_are_none(trained, tmp_path):
    broken = tmp_path / "student.onnx"
    broken.write_bytes(trained.artifact.path.read_bytes()[:2000])
    with pytest.raises(UsageError):
        read(replace(trained.artifact, path=broken), [pixels(trained.spec, 1)], 1, None)


def test_a_profiler_that_loses_queries_is_told(files, monkeypatch):
    lost = layers_onnxruntime._turns
    monkeypatch.setattr(
        layers_onnxruntime,
        "_turns",
        lambda *given: (lambda whole, lines: (whole, list(lines)[:40]))(*lost(*given)),
    )
    with pytest.raises(KDCompressError, match="did not keep all queries"):
        read(files["fp32"], queries(files["fp32"].input, problem(8, seed=3)[0], 12), 1, None)
