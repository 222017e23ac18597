"""What of an ONNX graph 256 levels are too few for, by what it computes."""

from __future__ import annotations

from typing import Any

from kdcompress.export import graph


def products(model: Any) -> list[str]:
    """The matrix products of two activations, as in attention: no weight of theirs has a scale for each channel."""
    constants = {i.name for i in model.graph.initializer}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and constants.isdisjoint(n.input)]


def divisors(model: Any) -> list[str]:
    """The products of two activations that a divisor is computed from, with what is between, in order: a sum that is
    small beside the others has few of 256 levels, and dividing by it makes the error large (linear attention)."""
    starts = {*products(model)}
    of_products: dict[str, set[str]] = {}  # tensor -> the nodes that lead from a product to it
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Div":
            found |= of_products.get(node.input[1], set())
        if node.name in starts:
            way = {node.name}
        elif node.op_type in (*graph.LAYERS, "Shape"):
            continue
        else:
            way = set().union(*(of_products.get(name, set()) for name in node.input))
            way |= {node.name} if way else set()
        of_products |= dict.fromkeys(node.output, way)
    return [node.name for node in model.graph.node if node.name in found]
