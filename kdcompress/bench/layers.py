"""What may be said of a file's layers: how long each takes, how much of the machine it uses, and what another file does
faster or slower."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcompress.bench.statistics import bootstrap, paired_bootstrap, reproducible, unpaired_bootstrap, verdict
from kdcompress.layers import Layer, Profile

MULTIPLIES = re.compile(r"conv(?!ert)|gemm|matmul|fully[ _]?connected|innerproduct|dense|attention")
FLOATS = ("fp32", "fp16", "bf16")
ROUNDING_DB = 40.0  # about what values keep that are rounded to 8 bits
LOSES_DB = 3.0  # half the power: a smaller fall from one layer to the next is not told


def summary(profile: Profile, peak: Mapping[str, float], main: Collection[str] = ()) -> dict[str, Any]:
    """A profile as numbers, JSON-able. ``peak``: GMAC/s of this machine by precision; where a layer was faster, that is
    the peak. ``main``: nodes of the parent that a layer is called after, the first of them that it was made of.

    Each time is a median with its 95 % interval, in milliseconds; no interval is narrower than the clock's steps.
    """
    step = resolution(profile)
    total = _sum(profile.layers)
    medians = [float(np.median(layer.times)) for layer in profile.layers]
    rates = [_rate(layer, ms) for layer, ms in zip(profile.layers, medians, strict=True)]
    best = dict(peak)
    for layer, rate in zip(profile.layers, rates, strict=True):
        if layer.precision in best and rate:
            best[layer.precision] = max(best[layer.precision], rate)
    rows = []
    for layer, ms, rate in zip(profile.layers, medians, rates, strict=True):
        top = best.get(layer.precision)
        rows.append(
            {
                "name": layer.name,
                "of": called(layer, main),
                "kind": layer.kind,
                "precision": layer.precision,
                "shape": list(layer.shape),
                **_timed(layer.times, step),
                "share": ms / sum(medians),
                "macs": layer.macs,
                "gmacs_per_s": rate,
                "of_peak": rate / top if rate and top else None,
                "snr_db": layer.snr_db,
                "made_of": list(layer.made_of),
                "times_ms": [round(float(each), 6) for each in layer.times],
            }
        )
    ratio, low, high = paired_bootstrap(total, profile.whole)
    return {
        "runtime": profile.runtime,
        "version": profile.version,
        "threads": profile.threads,
        "queries": len(profile.whole),
        "step_ms": step,
        "whole": {**_timed(profile.whole), "times_ms": [round(float(each), 6) for each in profile.whole]},
        "sum": _timed(total, step),
        "sum_over_whole": {"ratio": ratio, "low": low, "high": high},
        "peak": {
            name: {"gmacs_per_s": rate, "by": "a layer" if rate > peak[name] else "a matrix product"}
            for name, rate in best.items()
        },
        "by_precision": _by_precision(rows),
        "layers": rows,
        "notes": list(profile.notes),
    }


def called(layer: Layer, main: Collection[str] = ()) -> str:
    """The node of the parent that a layer is known by; "" where it was made of none."""
    return next((part for part in layer.made_of if part in main), next(iter(layer.made_of), ""))


def multiplies(layer: Layer) -> bool:
    """Whether it is a convolution or a matrix product: it has multiply-accumulates, or else its kind says so."""
    return bool(layer.macs) if layer.macs is not None else bool(MULTIPLIES.search(layer.kind.lower()))


def stayed_float(profile: Profile, main: Collection[str] = ()) -> list[str]:
    """The convolutions and matrix products that run in float, where others do in int8."""
    heavy = [layer for layer in profile.layers if multiplies(layer)]
    if not any(layer.precision == "int8" for layer in heavy):
        return []
    return [called(layer, main) or layer.name for layer in heavy if layer.precision in FLOATS]


def resolution(profile: Profile) -> float:
    """The steps of the profiler's clock in milliseconds: the smallest difference of two times."""
    times = np.unique(np.concatenate([layer.times for layer in profile.layers])) if profile.layers else np.zeros(0)
    apart = np.diff(np.round(times, 9))
    return float(apart[apart > 0].min(initial=math.inf)) if (apart > 0).any() else 0.0


@dataclass(frozen=True)
class Group:
    """Layers of two files that share nodes of the parent, however each file cut it."""

    name: str
    mine: Sequence[Layer]
    other: Sequence[Layer]


def groups(mine: Profile, other: Profile, main: Collection[str] = ()) -> list[Group]:
    """In the order of the first file; what was made of no node that the other has is in none."""
    parts: list[tuple[set[str], list[tuple[int, Layer]]]] = []  # nodes, and (which file, layer) of those made of them
    for which, profile in enumerate((mine, other)):
        for layer in [layer for layer in profile.layers if layer.made_of]:
            apart = [part[0].isdisjoint(layer.made_of) for part in parts]
            same = [part for part, none in zip(parts, apart, strict=True) if not none]
            nodes = set(layer.made_of).union(*(each for each, _ in same))
            entry = nodes, [*(each for _, those in same for each in those), (which, layer)]
            at = apart.index(False) if same else len(parts)
            parts = [*parts[:at], entry, *(parts[i] for i in range(at, len(parts)) if apart[i])]
    found = []
    for _, those in parts:
        first, second = ([layer for side, layer in those if side == which] for which in (0, 1))
        if first and second:
            found.append(Group(_group_name(first, second, main), first, second))
    return found


def changes(mine: Profile, other: Profile, main: Collection[str] = ()) -> list[dict[str, Any]]:
    """Each group of layers in both files: ``ratio`` is of the time in the first file to that in the other, with its
    95 % interval, of two sessions. A verdict has to hold for the next session too, and for what the clocks' steps hide.
    """
    rows = []
    for group in groups(mine, other, main):
        times = _sum(group.mine), _sum(group.other)
        medians = [float(np.median(each)) for each in times]
        ratio, low, high = unpaired_bootstrap(*times)
        a, b = (
            min(1.0, len(part) * resolution(profile) / 2 / ms)
            for part, profile, ms in zip((group.mine, group.other), (mine, other), medians, strict=True)
        )
        low, high = low * (1 - a) / (1 + b), high * (1 + a) / (1 - b) if b < 1 else math.inf
        rows.append(
            {
                "name": group.name,
                "layers": [layer.name for layer in group.mine],
                "other_layers": [layer.name for layer in group.other],
                "precision": _precisions(group.mine),
                "other_precision": _precisions(group.other),
                "ms": medians[0],
                "other_ms": medians[1],
                "saved_ms": medians[1] - medians[0],
                "ratio": ratio,
                "low": low,
                "high": high,
                "verdict": verdict(*reproducible(low, high)),
            }
        )
    return rows


def alone(profile: Profile, other: Profile) -> dict[str, Any]:
    """The layers that were made of no node that the other file has: reorders, conversions, copies."""
    theirs = {node for layer in other.layers for node in layer.made_of}
    found = [layer for layer in profile.layers if not theirs & set(layer.made_of)]
    ms = float(np.median(_sum(found))) if found else 0.0
    return {"layers": [layer.name for layer in found], "ms": ms}


def falls(profile: Profile, main: Collection[str] = ()) -> list[dict[str, Any]]:
    """Where the values part from the parent's: layers at which the error's power grows to twice what it was in any
    layer before them, the worst first. Before the first it is that of rounding to 8 bits."""
    found, least = [], ROUNDING_DB
    for layer in profile.layers:
        if layer.snr_db is None:
            continue
        if layer.snr_db <= least - LOSES_DB:
            found.append({"name": called(layer, main) or layer.name, "before_db": least, "snr_db": layer.snr_db})
        least = min(least, layer.snr_db)
    return sorted(found, key=lambda fall: fall["snr_db"] - fall["before_db"])


def _by_precision(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Totals of the layers of each precision, the longest first; "" is of those that only move values, or of which the
    runtime does not say it."""
    macs = sum(row["macs"] or 0 for row in rows)
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        those = [row for row in rows if row["precision"] == precision]
        found.append(
            {
                "precision": precision,
                "layers": len(those),
                "median_ms": sum(row["median_ms"] for row in those),
                "share": sum(row["share"] for row in those),
                "macs_share": sum(row["macs"] or 0 for row in those) / macs if macs else None,
            }
        )
    return sorted(found, key=lambda total: -total["median_ms"])


def _timed(times: np.ndarray, step: float = 0.0) -> dict[str, float]:
    median, low, high = bootstrap(times)
    return {"median_ms": median, "low_ms": max(0.0, low - step / 2), "high_ms": high + step / 2}


def _sum(layers: Sequence[Layer]) -> np.ndarray:
    """Milliseconds, float [queries], of all of them."""
    return np.sum([layer.times for layer in layers], axis=0)


def _rate(layer: Layer, ms: float) -> float | None:
    """GMAC/s."""
    return layer.macs / ms / 1e6 if layer.macs and ms > 0 else None


def _precisions(layers: Sequence[Layer]) -> str:
    """Those of the layers that multiply, or of all where none does."""
    heavy = [layer for layer in layers if multiplies(layer)] or layers
    return "+".join(dict.fromkeys(layer.precision for layer in heavy if layer.precision))


def _group_name(mine: Sequence[Layer], other: Sequence[Layer], main: Collection[str]) -> str:
    named = dict.fromkeys(called(layer, main) for layer in (*mine, *other))
    return next((name for name in named if name in main), next(iter(named)))
