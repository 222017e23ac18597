"""Bias correction: quantising shifts the mean of what a layer gives; its bias takes the shift back.

Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, arXiv:1906.04721, appendix D: the empirical form, layer by layer, each after those before it are corrected.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcompress.artifact import InputSpec
from kdcompress.export.graph import LAYERS
from kdcompress.export.run_onnxruntime import open_session_of


def correct_biases(parent: Any, quantised: Any, batches: list[np.ndarray], spec: InputSpec) -> int:
    """Change the biases of ``quantised``, a QDQ copy of the ONNX model ``parent``, in place, so that each layer's mean
    over ``batches`` is the parent's, channel by channel. Returns how many layers were corrected; those without a bias
    cannot be."""
    import onnx

    _own_biases(quantised)
    initializers = {i.name: i for i in quantised.graph.initializer}
    maker = {output: node for node in quantised.graph.node for output in node.output}
    layers = {n.name: n for n in quantised.graph.node if n.op_type in LAYERS and len(n.input) > 2}
    wanted = {n.name: n.output[0] for n in parent.graph.node if n.name in layers}
    expected = dict(zip(wanted, _means(parent, list(wanted.values()), batches, spec)))
    corrected = 0
    for node in [node for node in quantised.graph.node if node.name in wanted]:
        back = maker.get(node.input[2])  # int32, with a scale a channel; or a float initializer
        stored = initializers.get(back.input[0] if back is not None else node.input[2])
        if stored is None:
            continue
        (mean,) = _means(quantised, [node.output[0]], batches, spec)
        bias, shift = onnx.numpy_helper.to_array(stored), expected[node.name] - mean
        if back is not None:
            shift = np.rint(shift / onnx.numpy_helper.to_array(initializers[back.input[1]]))
        stored.CopyFrom(onnx.numpy_helper.from_array((bias + shift).astype(bias.dtype), stored.name))
        corrected += 1
    return corrected


def _own_biases(model: Any) -> None:
    """A bias that several layers share, as equal ones are stored once, becomes one of each."""
    import onnx

    initializers = {i.name: i for i in model.graph.initializer}
    maker = {output: node for node in model.graph.node for output in node.output}
    taken: set[str] = set()
    for node in [node for node in model.graph.node if node.op_type in LAYERS and len(node.input) > 2]:
        back, shared = maker.get(node.input[2]), node.input[2]
        stored = initializers.get(back.input[0] if back is not None else shared)
        if stored is None or shared not in taken:
            taken.add(shared)
            continue
        copied = onnx.TensorProto()
        copied.CopyFrom(stored)
        copied.name = f"{stored.name}_{node.name}"
        model.graph.initializer.append(copied)
        node.input[2] = copied.name
        if back is not None:
            own = onnx.NodeProto()
            own.CopyFrom(back)
            own.name, own.input[0], own.output[0] = f"{back.name}_{node.name}", copied.name, f"{shared}_{node.name}"
            node.input[2] = own.output[0]
            model.graph.node.insert(list(model.graph.node).index(node), own)


def _means(model: Any, tensors: list[str], batches: list[np.ndarray], spec: InputSpec) -> list[np.ndarray]:
    """The mean of each tensor [N, C, ...] over everything but its channels, float64 [C]."""
    session = open_session_of(model, tensors)
    sums = [np.zeros(())] * len(tensors)
    for batch in batches:
        found = session.run(tensors, {spec.name: batch})
        sums = [s + f.mean(axis=(0, *range(2, f.ndim)), dtype=np.float64) for s, f in zip(sums, found)]
    return [s / len(batches) for s in sums]
