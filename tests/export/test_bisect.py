"""The first layer at which two files of one network part."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from export_nets import problem

from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.export.bisect import first_difference, layers, tolerance_of
from kdcompress.export.formats import build, target
from kdcompress.export.graph import LAYERS


@pytest.fixture
def perturbed(trained, tmp_path):
    """A copy with noise in the weights of the fourth layer; (file, name of that layer)."""
    model = onnx.load(trained.artifact.path)
    layer = [node for node in model.graph.node if node.op_type in LAYERS][3]
    weight = next(i for i in model.graph.initializer if i.name == layer.input[1])
    values = onnx.numpy_helper.to_array(weight)
    noise = np.random.default_rng(0).standard_normal(values.shape).astype(np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(values * (1 + np.float32(0.01) * noise), weight.name))
    onnx.save(model, tmp_path / "perturbed.onnx")
    return tmp_path / "perturbed.onnx", layer.name


def test_the_same_file_does_not_part(trained):
    found = layers(trained.artifact.path, trained.artifact.path)
    assert len(found) > 10 and all(step.before == step.after == 0 for step in found)
    assert first_difference(found, 0.0) is None and found[-1].tensor == "logits"


def test_a_perturbed_layer_is_named(trained, perturbed):
    file, layer = perturbed
    for images in (None, problem(20, seed=3)[0]):
        first = first_difference(layers(trained.artifact.path, file, images), tolerance_of("fp32"))
        assert (first.layer, first.before) == (layer, 0.0) and first.after > 1e-3


@pytest.mark.parametrize(("name", "least", "most"), [("onnx-fp16", 1e-5, 1e-2), ("x86-vnni", 1e-3, 0.1)])
def test_a_sound_file_of_lower_precision_stays_within_its_tolerance(name, least, most, trained, job):
    found = layers(trained.artifact.path, build(job, target(name)).path, problem(64, seed=3)[0])
    assert {"Conv", "Relu", "Gemm"} <= {step.kind for step in found}
    assert least < max(step.after for step in found) < most, list(map(str, found))
    assert most == tolerance_of(target(name).precision)


def test_a_fault_in_an_int8_file_is_named(trained, job):
    """A scale that is twice what it was."""
    artifact = build(job, target("x86-vnni"))
    model = onnx.load(artifact.path)
    layer = [node for node in model.graph.node if node.op_type == "Conv"][4]
    restored = next(node for node in model.graph.node if layer.input[1] in node.output)
    scale = next(i for i in model.graph.initializer if i.name == restored.input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(scale), scale.name))
    onnx.save(model, artifact.path)
    found = layers(trained.artifact.path, artifact.path, problem(64, seed=3)[0])
    first = first_difference(found, tolerance_of("int8"))
    assert first.before < 0.1 < first.after
    after = [node for node in model.graph.node if layer.output[0] in node.input or layer.output[0] == first.tensor]
    assert first.tensor == layer.output[0] or any(first.tensor in (*node.input, *node.output) for node in after)


def test_of_a_fixed_batch_of_floats(fixed):
    found = layers(fixed.artifact.path, fixed.artifact.path)
    assert found[-1].tensor == "logits" and found[-1].after == 0


def test_other_networks_are_refused(trained, fixed, perturbed):
    with pytest.raises(UsageError, match="images of different sizes"):
        layers(trained.artifact.path, fixed.artifact.path)
    model = onnx.load(trained.artifact.path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in ("image", "") else f"other_{name}" for name in names]
    for value in (*model.graph.initializer, *model.graph.output):
        value.name = f"other_{value.name}"
    path = perturbed[0].with_name("other.onnx")
    onnx.save(model, path)
    with pytest.raises(UsageError, match="no tensor in common"):
        layers(trained.artifact.path, path)


def test_the_command(trained, perturbed):
    file, layer = perturbed
    arguments = ["inspect", str(file), "--bisect", str(trained.artifact.path)]
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert layer in found["first_difference"] and found["tolerance"] == 1e-4
    assert found["tensors"][-1]["tensor"] == "logits" and found["tensors"][-1]["after"] > 0
    assert f"first_difference: Conv {layer} (tensor" in CliRunner().invoke(main, arguments).stdout
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json", "--tolerance", "10"]).stdout)
    assert found["first_difference"] is None
    for wrong in (["inspect", str(file), "--tolerance", "1"], ["inspect", str(file), "--bisect", "none.onnx"]):
        assert CliRunner().invoke(main, wrong).exit_code == 2
