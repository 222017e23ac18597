"""What an ncnn .param file says of its layers: what they multiply, and which of the parent's values they give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.export import graph
from kdcompress.export.run_ncnn import PARAM

Shape = tuple[int, ...]

CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Convolution1D", "ConvolutionDepthWise1D")
TURNED = ("Deconvolution", "DeconvolutionDepthWise")
# The number of an activation that is done in the same layer -> the ONNX operator that it was.
ACTIVATIONS = {1: "Relu", 2: "LeakyRelu", 3: "Clip", 4: "Sigmoid", 5: "Mish", 6: "HardSwish"}
INT8_SCALES = 8  # the parameter of a convolution or inner product that says how its int8 weights are scaled
# Kinds of layers without weights -> the ONNX operators that they were.
KINDS = {
    "ReLU": ("Relu", "LeakyRelu"),
    "Clip": ("Clip",),
    "HardSwish": ("HardSwish",),
    "HardSigmoid": ("HardSigmoid",),
    "Sigmoid": ("Sigmoid",),
    "TanH": ("Tanh",),
    "GELU": ("Gelu",),
    "Softmax": ("Softmax",),
    "BinaryOp": ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"),
    "Pooling": ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"),
    "Reduction": ("ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool"),
    "Concat": ("Concat",),
    "LayerNorm": ("LayerNormalization",),
    "Interp": ("Resize",),
}


@dataclass(frozen=True)
class Entry:
    """A line of the file: blobs that are read and given, by name, and numbered parameters."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[int, float]

    def number(self, place: int) -> int:
        return int(self.numbers.get(place, 0))

    @property
    def activation(self) -> str:
        """The ONNX operator that is done in the same layer after the sums."""
        takes = self.kind in (*CONVOLUTIONS, *TURNED, "InnerProduct")
        return ACTIVATIONS.get(self.number(9), "") if takes else ""

    @property
    def weights(self) -> tuple[int, int] | None:
        """How many, and how many values they give for one place; None where the file has none of this layer."""
        if self.kind in (*CONVOLUTIONS, *TURNED):
            return self.number(6), self.number(0)
        if self.kind == "InnerProduct":
            return self.number(2), self.number(0)
        if self.kind == "Gemm" and self.number(5) and self.number(8) and self.number(9):
            return self.number(8) * self.number(9), self.number(8)
        return None

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int | None:
        """Multiply-accumulates, of a convolution, a matrix product or an attention, for the shapes of one image."""
        if self.kind in CONVOLUTIONS:
            return self.number(6) * math.prod(output[1:])
        if self.kind in TURNED:
            return self.number(6) * math.prod(inputs[0][1:])
        if self.kind == "InnerProduct":
            return self.number(2) * math.prod(output[:-1])
        if self.kind == "Gemm":
            sums = self.number(9) or (inputs[0][0 if self.number(2) else -1] if inputs else 0)
            return math.prod(output) * sums or None
        if self.kind == "MatMul" and len(inputs) > 1:
            return math.prod(output) * inputs[0][-1]
        if self.kind == "SDPA" and len(inputs) > 2:
            query, key = inputs[:2]
            return math.prod(query[:-1]) * key[-2] * (query[-1] + output[-1])
        return None


def entries(folder: Path) -> list[Entry]:
    """The layers in the file's order, which is that of their computation."""
    found = []
    for line in (folder / PARAM).read_text(encoding="utf-8").splitlines()[2:]:
        if not line.strip():
            continue
        kind, name, reads, gives, *rest = line.split()
        blobs, reads_, gives_ = rest, int(reads), int(gives)
        inputs, outputs = tuple(blobs[:reads_]), tuple(blobs[reads_ : reads_ + gives_])
        numbers: dict[int, float] = {}
        for part in blobs[reads_ + gives_ :]:
            place, _, value = part.partition("=")
            if int(place) >= 0 and "," not in value and not value.startswith('"'):
                numbers[int(place)] = float(value)
        found.append(Entry(kind, name, inputs, outputs, numbers))
    return found


@dataclass
class Matched:
    """A layer's nodes of the parent, and the parent's name for what the layer gives; "" where that is not known."""

    nodes: tuple[str, ...] = ()
    tensor: str = ""


def matched(layers: Sequence[Entry], model: Any) -> list[Matched]:
    """For each layer what it was in ``model``, the parent's ModelProto. pnnx starts from PyTorch, so no name is common:
    layers with weights are paired by their order and the sizes of the weights, and those behind them by what they read.
    """
    found = [Matched() for _ in layers]
    walk = _Walk(model)
    heavy = [i for i, layer in enumerate(layers) if layer.weights]
    nodes = [node for node in model.graph.node if walk.weights(node)]
    mine, other = [layers[i].weights for i in heavy], [walk.weights(node) for node in nodes]
    for block in SequenceMatcher(None, mine, other, autojunk=False).get_matching_blocks():
        for i, node in zip(heavy[block.a : block.a + block.size], nodes[block.b : block.b + block.size], strict=True):
            found[i] = walk.through(node, layers[i])
    tensors: dict[str, str] = {}  # blob -> the parent's name for it
    for i, layer in enumerate(layers):
        if layer.kind == "Split":
            tensors |= dict.fromkeys(layer.outputs, tensors.get(layer.inputs[0], ""))
            continue
        if not found[i].nodes and layer.kind in KINDS:
            found[i] = walk.behind([tensors.get(blob) for blob in layer.inputs], KINDS[layer.kind])
        if layer.outputs:
            tensors[layer.outputs[0]] = found[i].tensor if layer.kind != "MemoryData" else CONSTANT
    return found


CONSTANT = "(constant)"


class _Walk:
    """The parent's graph, walked from what its nodes give to what is made of that. No node is used twice."""

    def __init__(self, model: Any):
        self._stored = {i.name: tuple(i.dims) for i in model.graph.initializer}
        self._order = {node.name: i for i, node in enumerate(model.graph.node)}
        self._users: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self._users.setdefault(name, []).append(node)
        self._used: set[str] = set()

    def weights(self, node: Any) -> tuple[int, int] | None:
        """As those of a layer."""
        shape = self._stored.get(node.input[1]) if node.op_type in graph.LAYERS else None
        if shape is None:
            return None
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "Gemm":
            gives = shape[0 if attributes.get("transB") else 1]
        elif node.op_type == "ConvTranspose":
            gives = shape[1] * attributes.get("group", 1)
        else:
            gives = shape[0] if node.op_type == "Conv" else shape[-1]
        return int(np.prod(shape)), gives

    def through(self, node: Any, layer: Entry) -> Matched:
        """The node with the sum of its bias, and with the layer's activation."""
        parts, tensor = [node], node.output[0]
        if node.op_type == "MatMul" and (bias := self._only_user(tensor, ("Add",))) and self._adds_stored(bias):
            parts.append(bias)
        if layer.activation and parts:
            activation = self._only_user(parts[-1].output[0], (layer.activation,))
            if activation is None:  # it is several nodes: which of them is not looked for
                return self._took(parts, "")
            parts.append(activation)
        return self._took(parts, parts[-1].output[0])

    def behind(self, tensors: Sequence[str | None], kinds: Sequence[str]) -> Matched:
        """The node of one of these kinds that is computed from these tensors, and from constants alone besides."""
        if not tensors or not all(tensors):
            return Matched()
        wanted = sorted(name for name in tensors if name and name != CONSTANT)
        for node in self._users.get(wanted[0], []) if wanted else []:
            reads = sorted(name for name in node.input if name and name not in self._stored)
            if node.op_type in kinds and node.name not in self._used and reads == wanted:
                return self._took([node], node.output[0])
        return Matched()

    def _only_user(self, tensor: str, kinds: Sequence[str]) -> Any | None:
        users = self._users.get(tensor, [])
        return users[0] if len(users) == 1 and users[0].op_type in kinds else None

    def _adds_stored(self, node: Any) -> bool:
        return any(name in self._stored for name in node.input)

    def _took(self, parts: Sequence[Any], tensor: str) -> Matched:
        self._used.update(part.name for part in parts)
        return Matched(tuple(part.name for part in parts if part.name), tensor)
