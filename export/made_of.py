"""Which nodes of its ONNX parent a layer was made of, by the names that ONNX Runtime's optimisers leave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from kdcompress.export.quantize import FAMILIES

MULTIPLY = tuple(kind for kinds in FAMILIES.values() for kind in kinds)
BETWEEN = ("QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Cast", "Transpose")
# What optimisers write around the name of a node, or of the tensor that it gave.
ADDED = re.compile(
    r"^(InsertedPrecisionFreeCast_)+|^FusedBack_|(_token_\d+|_nchwc|_pool|_output_cast_\d+|_QuantizeLinear_Output)+$"
)


def made_of(optimised: Any, file: Any, parent: Any) -> list[tuple[str, ...]]:
    """For each node of the optimised graph of ``file`` the names of the nodes of ``parent``, a ModelProto as they are,
    that were fused into it, in their order. No node is in two; what only converts is made of none.

    A layer has the nodes that its name or its output's name leads to. Of the others, those that multiply went into the
    layer that uses what they give, and the rest into the layer before them where that is one of those that take
    activations and sums, or else into the one behind them.
    """
    names = {node.name: i for i, node in enumerate(parent.graph.node) if node.name}
    makers = {name: i for i, node in enumerate(parent.graph.node) for name in node.output if name}
    outputs = {node.name: list(node.output) for node in file.graph.node if node.name}
    layer_of: dict[int, int] = {}
    for at, node in enumerate(optimised.graph.node):
        if node.op_type in BETWEEN:
            found = names.get(node.name)
        else:
            said = list(_said(node, outputs))
            known = [names[name] for name in said if name in names] or [makers[name] for name in said if name in makers]
            found = known[0] if known else None
        if found is not None:
            layer_of.setdefault(found, at)
    _fill(layer_of, parent, makers, optimised)
    found_of: list[list[str]] = [[] for _ in optimised.graph.node]
    for i, at in sorted(layer_of.items()):
        found_of[at].append(parent.graph.node[i].name)
    return [tuple(filter(None, each)) for each in found_of]


def _said(node: Any, outputs: dict[str, list[str]]) -> Iterator[str]:
    """The names that may be those of a node of the parent or of what it gives, the surest first."""
    for name in (node.name, *node.output):
        plain = ADDED.sub("", ADDED.sub("", name))
        yield from dict.fromkeys((name, plain, name.removesuffix("_pool")))
        yield from outputs.get(plain, ())


def _fill(layer_of: dict[int, int], parent: Any, makers: dict[str, int], optimised: Any) -> None:
    """Gives the nodes that no layer is named after to layers."""
    nodes = list(parent.graph.node)
    users: dict[int, list[int]] = {i: [] for i in range(len(nodes))}
    for i, node in enumerate(nodes):
        for name in node.input:
            if name in makers:
                users[makers[name]].append(i)
    kinds = [node.op_type for node in optimised.graph.node]
    kept = {name for node in optimised.graph.node for name in node.output}
    order = range(len(nodes))
    for i in reversed(order):
        if i not in layer_of and nodes[i].op_type in MULTIPLY:
            _take(layer_of, i, [layer_of.get(user) for user in users[i]], min)
    for i in order:
        if i not in layer_of:
            before = [name for name in nodes[i].input if name in makers and name not in kept]
            fused = [layer_of.get(makers[name]) for name in before]
            _take(layer_of, i, [at for at in fused if at is not None and _takes_more(kinds[at])], max)
    for i in reversed(order):
        if i not in layer_of:
            _take(layer_of, i, [layer_of.get(user) for user in users[i]], min)
    for i in order:
        if i not in layer_of:
            _take(layer_of, i, [layer_of.get(makers[name]) for name in nodes[i].input if name in makers], max)


def _take(layer_of: dict[int, int], i: int, layers: Sequence[int | None], pick: Any) -> None:
    if known := [at for at in layers if at is not None]:
        layer_of[i] = pick(known)


def _takes_more(kind: str) -> bool:
    """Whether an operator may do activations and sums besides: one on integers does a ReLU by its range."""
    return multiplies(kind) or kind.startswith("QLinear")


def multiplies(kind: str) -> bool:
    """Whether an operator of ONNX Runtime's is a convolution or a matrix product, fused with others or not."""
    return kind in MULTIPLY or any(part in kind for part in ("Conv", "Gemm", "MatMul", "Attention"))
