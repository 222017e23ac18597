"""Which nodes of the ONNX parent went into each layer, where it is known what tensor of the parent a layer gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def parts(model: Any, tensors: Sequence[str]) -> list[tuple[str, ...]]:
    """For layers in the order in which they run, each of which gives the tensor of that name (or ""), the names of the
    ModelProto's nodes that its tensor is computed by, back to the tensors of other layers. No node is in two; what is
    behind all of these tensors is in the last of them."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    given, taken = set(tensors), set[str]()
    found = []
    for tensor in tensors:
        nodes = {node.output[0] for node in _back(makers, tensor, given)} - taken
        taken |= nodes
        found.append([node for node in model.graph.node if node.output[0] in nodes])
    last = max((i for i, nodes in enumerate(found) if nodes), default=None)
    if last is not None:
        found[last] += [node for node in model.graph.node if node.output[0] not in taken]
    return [tuple(node.name for node in nodes if node.name) for nodes in found]


def _back(makers: Mapping[str, Any], tensor: str, given: set[str]) -> Iterator[Any]:
    waiting, seen = [tensor], {tensor}
    while waiting:
        node = makers.get(waiting.pop())
        if node is None:
            continue
        yield node
        for name in node.input:
            if name not in seen and name not in given:
                seen.add(name)
                waiting.append(name)
