"""How far a file may be from its record, and what is said of one that is farther."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from kdcompress.bench.machine import cpu_flags
from kdcompress.export.formats import Target, availability, writers

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Bounds:
    """How far from its record a file may be."""

    points: float  # by which the score may be lower: of classifiers, 0.2 are one image of the 500
    dense_points: float  # the same of boxes and maps, whose figures turn on ranks and on few objects
    agreement: float  # points by which the agreement with the parent may be lower
    error: tuple[float, float]  # times the recorded error
    least: float  # an error that is let pass in any case
    gain: float  # by which the slope of an output may be another


# fp32: kernels add in another order, by processor and by version; that is 2e-7 to 1e-6 here. bf16 or fp16 in its place
# is 4e-4 and more.
# fp16: weights are rounded, once and for all. Where ncnn and MNN compute in fp16 or bf16, because the processor can,
# activations are too: see HALF.
# int8: products and sums of integers are exact on whatever processor has VNNI, AMX, ARM's dot product, or only AVX2
# where weights have 7 bits; what is rounded between layers differs by 4e-4 of the values, a seventieth of the error. So
# the bounds are narrow, and on both sides: what is wrong makes the error of a file larger or, by chance, smaller, and
# turns its gain. That shows a scale that is wrong by 2 % in the convolutions of `residual`, but not in a squeeze and
# excitation or an attention, which is below the noise of int8: hence ``rounding``, which no noise hides.
BOUNDS = {
    "fp32": Bounds(0.2, 0.2, 0.2, (0.0, 10.0), 1e-5, 1e-5),
    "fp16": Bounds(0.4, 0.5, 0.6, (0.0, 3.0), 1e-3, 1e-3),
    "int8": Bounds(0.8, 1.0, 1.0, (0.85, 1.15), 0.0, 0.002),
}
HALF = Bounds(0.8, 1.0, 1.0, (0.0, 3.0), 1e-2, 5e-3)
# Of 8-bit weights with unsigned activations on x86 without VNNI: sums of two products saturate at 16 bits there.
SATURATES = Bounds(2.0, 3.0, 4.0, (0.5, 2.0), 0.0, 0.02)
SIZE = 0.03  # share: libraries name and describe things in other words
NODES = 0.10  # share
STEPS = 0.1  # of a weight's scale, by which a weight may be farther from the parent's


def bounds_of(target: Target | None, elsewhere: bool = False) -> Bounds:
    """``elsewhere``: the record is of a processor with other instructions, where int8 was compared on few networks."""
    if target is None:
        return BOUNDS["fp32"]
    if target.precision == "int8" and (elsewhere or not suited(target)):
        return SATURATES
    return HALF if target.precision == "fp16" and target.format in ("mnn", "ncnn") else BOUNDS[target.precision]


def suited(target: Target) -> bool:
    """Whether this processor has the instructions that the target's scheme is made for."""
    return not target.instructions or not set(target.instructions).isdisjoint(cpu_flags())


def differences(old: Record, new: Record, bounds: Bounds, dense: bool = False) -> list[str]:
    """What of the new record is worse than the old one allows, a sentence each."""
    found = []
    if "score" in old and "score" not in new:
        found.append("it is not run here any more")
    elif "score" in old:
        least = old["score"] - (bounds.dense_points if dense else bounds.points)
        agree = old["agreement"] - bounds.agreement
        low, high = (times * old["error"] for times in bounds.error)
        high = max(high, bounds.least)
        checks = [
            ("score", new["score"] >= least, f"{least:.2f} or more"),
            ("agreement", new["agreement"] >= agree, f"{agree:.2f} or more"),
            ("error", low <= new["error"] <= high, f"{low:.3g} to {high:.3g}"),
            ("gain", _near(old["gain"], new["gain"], bounds.gain), f"+- {bounds.gain:g}"),
        ]
        found += [_said(what, old[what], new[what], allowed) for what, good, allowed in checks if not good]
    if abs(new["bytes"] / old["bytes"] - 1) > SIZE:
        found.append(_said("bytes", old["bytes"], new["bytes"], f"{SIZE:.0%} more or less"))
    if "rounding" in old and not new.get("rounding", np.inf) <= old["rounding"] + STEPS:
        found.append(_said("rounding", old["rounding"], new.get("rounding"), f"{old['rounding'] + STEPS:.3g} or less"))
    return found + _less_covered(old["coverage"], new["coverage"], new["precision"])


def _near(old: Sequence[float], new: Sequence[float], bound: float) -> bool:
    """Of each output."""
    return len(old) == len(new) and all(abs(a - b) <= bound for a, b in zip(old, new, strict=True))


def _less_covered(old: Record, new: Record, precision: str) -> list[str]:
    found = []
    for part in ("layers", "weights"):
        if part in old:
            before, now = (each.get(part, {}).get(precision, 0) for each in (old, new))
            if now < before:
                found.append(_said(f"{part} in {precision}", before, now, f"{before} or more"))
    for part, share in (("nodes", NODES), ("outside", 0.0), ("leftover", 0.0)):
        if part in old and new.get(part, 0) > old[part] * (1 + share):
            found.append(_said(part, old[part], new.get(part, 0), f"{int(old[part] * (1 + share))} or fewer"))
    return found


def _said(what: str, old: Any, new: Any, allowed: str) -> str:
    return f"{what} {new}: recorded {old}, {allowed} allowed"


def versions_changed(old: Record, new: Record) -> str:
    """From which versions to which."""
    before, now = old["versions"], new["versions"]
    changed = [
        f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    same = ", ".join(f"{name} {now[name]}" for name in sorted(now))
    return f"since the record: {', '.join(changed)}" if changed else f"the versions are those of the record: {same}"


def message(name: str, target: str, old: Record, new: Record, found: list[str]) -> str:
    head = f"{name}, {target} ({new['format']} {new['precision']}) is not what its record says:"
    hint = "next: find out why. Where it shall be so: make reference"
    return "\n  ".join([head, *found, versions_changed(old, new), hint])


def why_not_built(target: Target, old: Record | None) -> str:
    """Why a file cannot be built here; "" where it can. Raises AssertionError where its packages are installed all the
    same, or where it was run for the record and cannot be run now: that is no reason to skip it."""
    can_build, can_run, why, _ = availability(target)
    if can_build and (can_run or not old or "score" not in old):
        return ""
    packages = {name: installed(name) for name in writers[target.writer].packages}
    if old and packages and all(packages.values()):
        there = ", ".join(f"{name} {version}" for name, version in packages.items())
        verb = "built" if not can_build else "run"
        raise AssertionError(f"{target.name} cannot be {verb} any more, and {there} is installed: {why}")
    return "" if can_build else why


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
