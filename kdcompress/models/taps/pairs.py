"""Which stages of a student and a teacher are compared."""

from __future__ import annotations

from collections.abc import Sequence

from kdcompress.errors import UsageError
from kdcompress.models.taps.table import spaced
from kdcompress.models.taps.types import Stage, TapShapes


def pair_stages(student: TapShapes, teacher: TapShapes, in_order: bool = False) -> list[tuple[int, int]]:
    """Pairs (student index, teacher index) of stages to compare, shallow to deep.

    Stages pair where their reductions agree within 25 %, the deepest of each resolution; a network with one
    resolution throughout (a plain transformer) pairs by relative depth. ``in_order`` pairs the first with the first
    and so on, for stages that the user named on both sides.

    Raises UsageError, naming both sides' stages, where fewer than two pairs are found (one, where a side has one
    stage in all) or where ``in_order`` meets unequal numbers.
    """
    ours, theirs = student.stages, teacher.stages
    if in_order:
        if len(ours) != len(theirs) or not ours:
            raise _no_pairs("Stages that are paired in order must be as many on both sides.", student, teacher)
        return list(zip(range(len(ours)), range(len(theirs)), strict=True))
    if ours and theirs and (_isotropic(ours) or _isotropic(theirs)):
        count = min(len(ours), len(theirs))
        pairs = list(zip(spaced(len(ours), count), spaced(len(theirs), count), strict=True))
    else:
        pairs = []
        for i in _deepest(ours):
            ratios = {j: _ratio(ours[i].reduction, theirs[j].reduction) for j in _deepest(theirs)}
            near = min(ratios, key=lambda j: ratios[j], default=None)
            if near is not None and ratios[near] <= 1.25 and near not in [j for _, j in pairs]:
                pairs.append((i, near))
    if len(pairs) < min(2, len(ours), len(theirs)) or not pairs:
        raise _no_pairs("The stages of student and teacher cannot be paired by resolution.", student, teacher)
    return pairs


def _isotropic(stages: Sequence[Stage]) -> bool:
    return len(stages) >= 2 and len({(stage.height, stage.width) for stage in stages}) == 1


def _deepest(stages: Sequence[Stage]) -> list[int]:
    return sorted({(stage.height, stage.width): index for index, stage in enumerate(stages)}.values())


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def _no_pairs(what: str, student: TapShapes, teacher: TapShapes) -> UsageError:
    def side(shapes: TapShapes) -> str:
        return f"({', '.join(map(str, shapes.stages)) or 'no stages'}; input {'x'.join(map(str, shapes.input))})"

    return UsageError(
        what,
        got=f"student {side(student)}, teacher {side(teacher)}",
        allowed="two pairs or more with the same share of the input's resolution",
        hint="name the module paths to compare in the recipe, as many on both sides: student.taps, teacher.taps",
    )
