"""Multiply-accumulates of the nodes of an ONNX graph, from the shapes that one query gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kdcompress.export.run_onnxruntime import open_session_of

# Operator -> its inputs that are multiplied: what is computed from, and the weights.
CONVOLUTIONS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "ConvTranspose": (0, 1)}
PRODUCTS = {"Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}


def macs(model: Any, name: str, query: np.ndarray) -> dict[str, int]:
    """Of each convolution and matrix product that has a name, for a query given as the input ``name``. Sums that only
    move or normalise values are not counted, as is usual."""
    shapes = _shapes(model, name, query)
    found = {}
    for node in model.graph.node:
        read = {**CONVOLUTIONS, **PRODUCTS}.get(node.op_type)
        if node.name and read and all(shapes.get(each) for each in (*(node.input[i] for i in read), node.output[0])):
            source, weight = (shapes[node.input[i]] for i in read)
            found[node.name] = _of(node, source, weight, shapes[node.output[0]])
    return found


def _of(node: Any, source: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Each value of the output is a sum of so many products; of a transposed convolution, each value of the input is
    in so many."""
    if node.op_type == "ConvTranspose":
        return math.prod(source) * math.prod(weight[1:])
    if node.op_type in CONVOLUTIONS:
        return math.prod(output) * math.prod(weight[1:])
    turned = node.op_type == "Gemm" and next((a.i for a in node.attribute if a.name == "transA"), 0)
    return math.prod(output) * source[0 if turned else -1]


def _shapes(model: Any, name: str, query: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Of what the nodes that multiply read and give: the graph runs once."""
    shapes = {i.name: tuple(i.dims) for i in model.graph.initializer} | {name: query.shape}
    kinds = {**CONVOLUTIONS, **PRODUCTS}
    wanted = [
        each
        for node in model.graph.node
        if node.op_type in kinds
        for each in (*(node.input[i] for i in kinds[node.op_type]), node.output[0])
    ]
    missing = [each for each in dict.fromkeys(wanted) if each not in shapes]
    if missing:
        values = open_session_of(model, missing).run(missing, {name: query})
        shapes |= {each: np.shape(value) for each, value in zip(missing, values, strict=True)}
    return shapes
