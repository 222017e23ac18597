"""What is asked of the layers of SmallResNet in every runtime that is given files made from its ONNX form."""

from __future__ import annotations

import numpy as np
import onnx
from export_nets import problem
from test_layers_onnxruntime import BY_HAND, queries

from kdcompress.export import graph
from kdcompress.export.formats import ExportJob, build, target
from kdcompress.export.layers import readers

N = 24
WRONG = "net.body.1.short"  # no batch norm is folded into its weights, and they are the same in any layout
CHANNELS = {name: 16 if "stem" in name else 64 if ".1." in name else 32 for name in BY_HAND if name != "net.fc"}


def built(trained, folder, names):
    """The files of these targets, by precision."""
    job = ExportJob(trained.module, trained.artifact, problem(128, seed=2)[0], folder, "student")
    return {target(name).precision: build(job, target(name)) for name in names}


def profiled(artifact, parent, threads=1, count=N):
    reader = readers[target(artifact.target).runtime]
    return reader(artifact, queries(artifact.input, problem(64, seed=3)[0], count), threads, parent)


def by_node(profile):
    """Node of the parent that multiplies -> its layer."""
    return {part: layer for layer in profile.layers for part in layer.made_of if part in BY_HAND}


def check_layers(profile, precision, parent):
    """Each layer is there, once, with its shape, type, multiply-accumulates and times."""
    found = by_node(profile)
    assert set(found) == set(BY_HAND) and len({layer.name for layer in found.values()}) == len(BY_HAND)
    for name, layer in found.items():
        assert layer.precision == precision and layer.macs == BY_HAND[name], layer
        assert layer.shape[0] == 1 and CHANNELS.get(name, 4) in layer.shape[1:], layer
    assert sum(layer.macs or 0 for layer in profile.layers) == sum(BY_HAND.values())
    assert all(layer.times.shape == (N,) and (layer.times > 0).all() for layer in profile.layers)
    assert profile.version and profile.whole.shape == (N,) and (profile.whole > 0).all()
    assert 0.02 < np.median(sum(layer.times for layer in profile.layers)) / np.median(profile.whole) < 20
    made = [part for layer in profile.layers for part in layer.made_of]
    assert sorted(made) == sorted(node.name for node in graph.load(parent.path).graph.node)


def sums_are_apart(profile):
    """A sum that is an operator of its own is not told to be part of the next convolution."""
    return all(any("Add" in layer.kind for part in layer.made_of if part == name) for layer in profile.layers
               for name in ("node_add_70", "node_add_111") if name in layer.made_of)  # fmt: skip


def made_wrong(trained, content):
    """The bytes of a file with a weight that is half of what it was."""
    model = onnx.load(trained.artifact.path)
    weight = next(onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name == f"{WRONG}.weight")
    right = weight.tobytes()
    assert content.count(right) == 1
    return content.replace(right, (weight / 2).tobytes())
