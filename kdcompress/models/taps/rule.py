"""The rule that finds the stages of any network on the table of a dry run: docs/stages.md.

At each resolution the stage is the last output at one nesting depth: the shallowest at which blocks (modules with two
weight layers or more, plain chains of layers aside) work at two resolutions, for a block that is alone with its depth
may be a stem or a neck. Where that depth has no output it is the shallowest that has. Blocks go before anything else.
What is inside a module that ends on the resolution it began with is never a stage, nor are wrappers around several
stages, nor is a leading resolution with no block in it: that is a stem. A network with one resolution (a plain
transformer) gives four evenly spaced depths, the last block among them. Maps of 1x1 are the pooled feature, no stage.

Each function looks at the table alone, and says why it leaves a call out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from kdcompress.models.taps.table import ISOTROPIC_STAGES, Call, Choice, spaced

Why = dict[Call, str]


def by_rule(calls: Sequence[Call]) -> Choice:
    """The stages of the network whose dry run left this table; none where nothing on it can be one."""
    closed = {call.path for call in calls if _is_closed(call)}
    why = {call: _unfit(call, closed) for call in calls}
    resolutions = _resolutions([call for call in calls if not why[call]])
    depth = _depth_of_stages(resolutions)
    found = [stage for resolution in resolutions if (stage := _last(resolution, depth, why)) is not None]
    stages = _without_stem(_without_nested(found, why), why)
    why.update({call: f"the last {'block' if call.block else 'layer'} at its resolution" for call in stages})
    if len(stages) == 1:
        stages = _blocks(calls, stages[0], why)
    return Choice(tuple(stages), "found", why)


def _unfit(call: Call, closed: set[str]) -> str:
    """Why the call gives no stage whatever the others are; empty where it may."""
    if call.gives is None:
        return "gives no map"
    if call.gives.places == 1:
        return "pooled: 1x1"
    if call.given and call.given.height < call.gives.height:
        return "enlarges what it is given"
    if call.given and call.given.height >= 3 * call.gives.height and call.weights >= 2:
        return "spans several resolutions"
    if holder := _holder(call, closed):
        return f"inside {holder}, which keeps its resolution"
    return ""


def _is_closed(call: Call) -> bool:
    """Whether nothing inside the module, at whatever resolution, is a stage: its one map ends on the resolution that
    it began with, or on a higher one."""
    maps = call.given is not None and call.gives is not None and call.given.height <= call.gives.height
    return call.block and call.alone and maps


def _holder(call: Call, paths: Collection[str]) -> str:
    """The outermost of ``paths`` that is a module which holds the call's; empty where none is."""
    names = call.path.split(".")
    return next((path for count in range(1, len(names)) if (path := ".".join(names[:count])) in paths), "")


def _resolutions(calls: Sequence[Call]) -> list[list[Call]]:
    """Calls that give a map by its resolution, fine to coarse, each in the table's order. Heights within a factor of
    the square root of 2 are one: valid padding makes 149 and 147."""
    sizes = sorted({call.gives.size for call in calls if call.gives}, reverse=True)
    merged: list[list[tuple[int, int]]] = []
    for size in sizes:
        if merged and merged[-1][0][0] < 2**0.5 * size[0]:
            merged[-1].append(size)
        else:
            merged.append([size])
    return [[call for call in calls if call.gives and call.gives.size in of] for of in merged]


def _depth_of_stages(resolutions: Sequence[Sequence[Call]]) -> int:
    """The shallowest nesting depth with blocks at two resolutions: at one alone they may be a stem, neck or head."""
    counts = Counter(depth for calls in resolutions for depth in {call.depth for call in calls if call.block})
    return min((depth for depth, count in counts.items() if count >= 2), default=0)


def _last(calls: Sequence[Call], depth: int, why: Why) -> Call | None:
    """The last call at this depth, or at the shallowest where there is none; blocks go before anything else. None
    where no layer works at this resolution."""
    if any(call.block for call in calls):
        why.update({call: "no block, and its resolution has blocks" for call in calls if not call.block})
        calls = [call for call in calls if call.block]
    depth = depth if any(call.depth == depth for call in calls) else min(call.depth for call in calls)
    why.update({call: f"nested {call.depth} deep; stages are {depth} deep" for call in calls if call.depth != depth})
    level = [call for call in calls if call.depth == depth]
    if not any(call.weights for call in level):
        why.update(dict.fromkeys(level, "no layer with weights works at its resolution"))
        return None
    why.update(dict.fromkeys(level[:-1], f"before {level[-1].path}, the last at its resolution"))
    return level[-1]


def _without_nested(stages: Sequence[Call], why: Why) -> list[Call]:
    """Without those that are inside another one's module."""
    holders = {call: _holder(call, {other.path for other in stages}) for call in stages}
    why.update({call: f"inside {holder}, a stage" for call, holder in holders.items() if holder})
    return [call for call in stages if not holders[call]]


def _without_stem(stages: list[Call], why: Why) -> list[Call]:
    """Without the leading resolutions that hold no block, where later ones do."""
    first = next((index for index, call in enumerate(stages) if call.block), 0)
    why.update(dict.fromkeys(stages[:first], "a stem: no block at its resolution"))
    return stages[first:]


def _blocks(calls: Sequence[Call], stage: Call, why: Why) -> list[Call]:
    """Evenly spaced blocks of a network with one resolution: of the parent with the most of them."""
    parents: dict[str, list[Call]] = {}
    for call in calls:
        if call.block and _shape(call) == _shape(stage):
            parents.setdefault(call.path.rpartition(".")[0], []).append(call)
    blocks = max(reversed(parents.values()), key=len, default=[])  # the deepest of equals
    if len(blocks) < 2:
        return [stage]
    chosen = [blocks[index] for index in spaced(len(blocks), min(ISOTROPIC_STAGES, len(blocks)))]
    spread = f"the {len(chosen)} blocks spread evenly over {len(blocks)}"
    why.update(dict.fromkeys([stage, *blocks], f"not among {spread}") | dict.fromkeys(chosen, f"one of {spread}"))
    return chosen


def _shape(call: Call) -> tuple[int, int, int] | None:
    return (call.gives.channels, *call.gives.size) if call.gives else None
