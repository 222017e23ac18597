"""Which nodes of the ONNX parent went into each layer, where it is known what tensor of the parent a layer gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def parts(model: Any, tensors: Sequence[str]) -> list[tuple[str, ...]]:
    """For layers in the order in which they run, each of which gives the tensor of that name (or ""), the names of the
    ModelProto's nodes that its tensor is computed by, back to the tensors of other layers. No node is in two; what is
    behind all of these tensors is in the last of them."""
    nodes = list(model.graph.node)
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    given, taken = set(tensors), set[int]()
    found = []
    for tensor in tensors:
        found.append(set(_back(nodes, makers, tensor, given)) - taken)
        taken |= found[-1]
    last = max((i for i, those in enumerate(found) if those), default=None)
    if last is not None:
        found[last] |= set(range(len(nodes))) - taken
    return [tuple(nodes[i].name for i in sorted(those) if nodes[i].name) for those in found]


def _back(nodes: Sequence[Any], makers: Mapping[str, int], tensor: str, given: set[str]) -> Iterator[int]:
    waiting, seen = [tensor], {tensor}
    while waiting:
        place = makers.get(waiting.pop())
        if place is None:
            continue
        yield place
        for name in nodes[place].input:
            if name not in seen and name not in given:
                seen.add(name)
                waiting.append(name)
