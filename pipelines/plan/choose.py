"""Candidates held to the budgets, and the one that is proposed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from kdcompress.export import formats
from kdcompress.pipelines.plan.records import Built, Counted, Judged, Latency
from kdcompress.pipelines.verdict import BYTES
from kdcompress.recipe import Recipe
from kdcompress.recipe.shipping import Budgets
from kdcompress.report.figures import count, significant, size
from kdcompress.report.gates import over

SPEED_MARGIN = 3.0  # a candidate is ruled out unmeasured if it misses at so many times the best pace measured


def too_large(candidate: Counted, recipe: Recipe, targets: Sequence[formats.Target]) -> str | None:
    """Why it cannot be inside the budgets, whatever it is built to."""
    if (why := _too_many_parameters(candidate, recipe)) is not None:
        return why
    for target in targets:
        weights = candidate.weights * BYTES[target.precision]
        if recipe.budgets.size_bytes is not None and weights > recipe.budgets.size_bytes:
            return f"its weights alone are {size(weights)} in {target.precision}"
        if recipe.budgets.memory_bytes is not None and candidate.memory[target.name] > recipe.budgets.memory_bytes:
            return f"it needs {size(candidate.memory[target.name])} of memory in {target.precision}"
    return None


def _too_many_parameters(candidate: Counted, recipe: Recipe) -> str | None:
    limit = recipe.gates.student_parameters
    if limit is None or candidate.parameters <= limit:
        return None
    return f"{count(candidate.parameters)} parameters; gates.student_parameters allows {count(limit)}"


def too_slow(macs: int, budget_ms: float | None, measured: Mapping[str, Collection[tuple[int, float]]]) -> str | None:
    """Why a candidate of so many ``macs`` misses, by the best pace of what was ``measured`` before (by target, pairs of
    multiply-accumulates and ms), with a margin."""
    if budget_ms is None:
        return None
    for target, pairs in measured.items():
        paces = [others / ms for others, ms in pairs]
        if paces and (at_best := macs / (SPEED_MARGIN * max(paces))) > budget_ms:
            return f"{significant(at_best)} ms even at {SPEED_MARGIN:g} times the best pace measured on {target}"
    return None


def judged(
    candidate: Counted,
    built: Built | None,
    latency: Mapping[str, Latency],
    out: str | None,
    recipe: Recipe,
    targets: Sequence[formats.Target],
) -> Judged:
    """A candidate that was not ruled ``out`` held to the budgets."""
    found = Judged(candidate, built, latency, out)
    if out is not None:
        return found
    parameters = _too_many_parameters(candidate, recipe)
    several = len(targets) > 1
    missed = [each for target in targets for each in _misses(found, target.name, recipe.budgets, several)]
    return replace(found, missed=(*([parameters] if parameters else []), *missed))


def _misses(candidate: Judged, target: str, budgets: Budgets, several: bool) -> Iterator[str]:
    """The budgets that it does not meet, each with by how much. Of a latency the interval's upper end counts."""
    on, latency = f" on {target}" if several else "", candidate.latency.get(target)
    figures = (
        ("latency", latency.high if latency else None, budgets.latency_ms),
        ("size", candidate.bytes.get(target), budgets.size_bytes),
        ("memory", candidate.built.memory.get(target) if candidate.built else None, budgets.memory_bytes),
    )
    for what, value, limit in figures:
        if limit is not None and value is None:
            yield f"{what}{on} not known"
        elif limit is not None and value is not None and value > limit:
            yield f"{what}{on} {over(value, limit)}"


def with_front(candidates: Sequence[Judged], timed: int) -> list[Judged]:
    """Those that no other beats are marked, of those that were measured for all of the ``timed`` targets."""
    measured = [each for each in candidates if len(each.latency) == timed > 0]
    return [
        replace(each, front=each in measured and not any(_beats(other, each) for other in measured))
        for each in candidates
    ]


def _beats(other: Judged, one: Judged) -> bool:
    """Whether it does at least as much in at most the time, and is better in one of them."""
    pairs = [(other.latency[name].ms, one.latency[name].ms) for name in one.latency]
    return (
        other.macs >= one.macs
        and all(theirs <= own for theirs, own in pairs)
        and (other.macs > one.macs or any(theirs < own for theirs, own in pairs))
    )


def limited(budgets: Budgets) -> bool:
    """Whether there is a budget that can be known before a training."""
    return any(getattr(budgets, name) is not None for name in ("latency", "size", "memory"))


def slower_than_fp32(ratios: Mapping[str, Mapping[str, object] | None]) -> tuple[str, ...]:
    """By target of an int8 file its latency over that of the fp32 that it was made from: those that a run would fail
    for it."""
    return tuple(
        f"int8 on {target} takes {ratio['median']:.2f} times as long as its fp32"
        for target, ratio in ratios.items()
        if ratio and ratio["verdict"] == "slower"
    )
