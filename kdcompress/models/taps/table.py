"""The table that a dry run leaves, a row for each call of a module, and what is chosen on it. No tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kdcompress.models.taps.maps import MapShape

ISOTROPIC_STAGES = 4  # of a network with one resolution


@dataclass(frozen=True)
class Call:
    """One call of one module; two are equal where path and index are. A table has them in order of completion.

    ``index``: which of the module's calls it is, from 0. ``kind``: the module's class. ``weights``: layers with weights
    (convolutions, linear maps) in it. ``block``: whether it has two of them or more and is no plain chain of layers.
    ``given`` and ``gives``: its first input and its output as maps, None where they are none. ``alone``: whether that
    map is all it gives.
    """

    path: str
    index: int = 0
    kind: str = field(default="Module", compare=False)
    weights: int = field(default=0, compare=False)
    block: bool = field(default=False, compare=False)
    given: MapShape | None = field(default=None, compare=False)
    gives: MapShape | None = field(default=None, compare=False)
    alone: bool = field(default=True, compare=False)

    @property
    def depth(self) -> int:
        """Of nesting, from 1."""
        return self.path.count(".") + 1


@dataclass(frozen=True)
class Choice:
    """The calls that give the stages, shallow to deep; how they were chosen; and why a call gives one or does not, in
    a few words."""

    stages: tuple[Call, ...]
    how: Literal["named", "declared", "found"]
    why: Mapping[Call, str] = field(default_factory=dict)


def spaced(total: int, count: int) -> list[int]:
    """``count`` of ``total`` indices, evenly spaced, the last one among them."""
    return [round((k + 1) * total / count) - 1 for k in range(count)]


def times(calls: Sequence[Call], call: Call) -> int:
    """How often the module of this call runs in a forward."""
    return sum(other.path == call.path for other in calls)
