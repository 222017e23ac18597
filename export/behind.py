"""What stands behind a graph's last layers: of a file with several outputs it stays in float, for it makes pixels and
shares, which one scale each does not hold."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Node = TypeVar("Node")


def behind_layers(
    nodes: Sequence[Node],
    layer: Callable[[Node], bool],
    reads: Callable[[Node], Iterable[Hashable]],
    gives: Callable[[Node], Iterable[Hashable]],
) -> list[Node]:
    """Those of ``nodes``, which stand in the order of their computation, that no layer is computed from and that are
    none. ``reads`` and ``gives`` name what a node takes and makes."""
    before: set[Hashable] = set()  # what a layer is computed from
    for node in reversed(nodes):
        if layer(node) or not before.isdisjoint(gives(node)):
            before.update(reads(node))
    return [node for node in nodes if not layer(node) and before.isdisjoint(gives(node))]
