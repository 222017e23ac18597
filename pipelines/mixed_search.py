"""Which layers stay in float so that a file is as fast as can be and loses no more than is allowed, by measurement.

It starts at all layers in int8, at the fewest in float that lose little enough, and at each kind of layer in float, or
in int8, alone. From the fastest of these it walks: one part of the network after the other is put into float, or back,
and stays so where the file is shown to be faster, timed in turns, and loses no more than is allowed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdcompress.errors import KDCompressError
from kdcompress.export.formats import load_target
from kdcompress.ours import Ours
from kdcompress.pipelines.runs import RunFolder
from kdcompress.pipelines.steps.tried import PARENT, Judged, TimedStep
from kdcompress.recipe import Bench

INT8, FEWEST = "all in int8", "the fewest in float"
Floating = frozenset[str]
NONE: Floating = frozenset()


@dataclass
class Point:
    """A file that was timed: its layers in float, its score on validation images, its time against the parent's."""

    label: str
    floating: Floating
    facts: dict[str, Any]
    ratio: dict[str, Any]
    ms: float | None

    def row(self, share: dict[str, float], front: bool) -> dict[str, Any]:
        shares = {"share": share["layers"], "macs_share": share["macs"]}
        known = {"float": sorted(self.floating), "ratio": self.ratio, "ms": self.ms, "front": front}
        return {"label": self.label, **shares, **self.facts, **known}


class Search:
    """For one target. ``tried``: what is known of the file with these layers in float; ``ranked``: the layers, those
    that cost most first; ``allowed``: points that the file may lose to its parent; ``minutes``: of the walk."""

    def __init__(
        self,
        judged: Judged,
        folder: RunFolder,
        tried: Callable[[Floating], dict[str, Any]],
        ranked: Sequence[str],
        counts: Sequence[int],
        allowed: float,
        minutes: float,
        bench: Bench,
        progress: Callable[[float, str], None],
    ):
        self.judged, self.folder, self.tried, self.ranked, self.counts = judged, folder, tried, ranked, counts
        self.allowed, self.minutes, self.bench, self.progress = allowed, minutes, bench, progress
        self.points: dict[Floating, Point] = {}
        self.busy = 0.0  # per cent of the processors' time that other programs took, at most

    def run(self, run: Path) -> dict[str, Any]:
        """Measures; the document. The target's file is written into ``run`` where some layers in float are worth it.
        Raises KDCompressError where the target's own file cannot be built."""
        begun, own = time.monotonic(), self.tried(NONE)
        if own.get("why"):
            raise KDCompressError("The target has no file to begin with.", where="--search", got=own["why"])
        whole = frozenset(self.ranked)
        enough = next((each for count in reversed(self.counts) if self._loses_little(each := self._top(count))), whole)
        self._time({INT8: NONE, **({FEWEST: enough} if enough not in (NONE, whole) else {}), **self._kinds(enough)})
        current, walked = self._fastest(), 0
        moves = list(self._moves())
        for walked, (what, group) in enumerate(moves, 1):
            if time.monotonic() - begun > 60 * self.minutes:
                walked -= 1
                break
            self.progress(walked / len(moves), f"{self.judged.target.name}: {what}")
            current = self._walk(current, what, group)
        chosen, said, pair = self._last(current)
        path = self._write(run, chosen, enough) if chosen else None
        rows = self._rows(chosen)
        return {
            "max_drop": self.allowed, "seconds": round(time.monotonic() - begun, 1), "moves": len(moves),
            "walked": walked, "points": rows, "other_cpu_percent": self.busy, "said": said, "against_int8": pair,
            "float": sorted(chosen) if chosen else [], "file": str(path) if path else None,
        }  # fmt: skip

    def _top(self, int8: int) -> Floating:
        return frozenset(self.ranked[: len(self.ranked) - int8])

    def _loses_little(self, floating: Floating) -> bool:
        found = self.tried(floating)
        return found.get("why") is None and found["drop"] <= self.allowed

    def _kinds(self, enough: Floating) -> dict[str, Floating]:
        """Each kind of layer in float, and each in int8 alone, beside what must be in float for its loss."""
        kinds, whole, found = self.judged.layers.kinds, frozenset(self.ranked), dict[str, Floating]()
        for kind in dict.fromkeys(kinds.values()):
            these = frozenset(name for name in self.ranked if kinds[name] == kind)
            found[f"{kind}: in float"] = enough | these
            found[f"{kind}: alone in int8"] = (whole - these) | enough
        new = {floating: label for label, floating in reversed(found.items()) if floating not in (NONE, enough, whole)}
        return {label: floating for floating, label in reversed(new.items()) if self._loses_little(floating)}

    def _moves(self) -> Iterator[tuple[str, Floating]]:
        """The parts of the network, the larger ones first: what is below each module's path."""
        macs, found = self.judged.layers.macs, dict[Floating, str]()
        for name in self.ranked:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                path = ".".join(parts[:depth])
                below = frozenset(each for each in self.ranked if each == path or each.startswith(f"{path}."))
                if len(below) < len(self.ranked):
                    found.setdefault(below, path)
        order = sorted(found, key=lambda group: (-len(group), -sum(macs[name] for name in group), found[group]))
        for group in order:
            yield found[group], group

    def _walk(self, current: Floating, what: str, group: Floating) -> Floating:
        """The faster of the current file and those with this part in float, or in int8."""
        for label, floating in ((f"{what}: in float", current | group), (f"{what}: in int8", current - group)):
            if floating in self.points or floating == frozenset(self.ranked) or not self._loses_little(floating):
                continue
            before = self.points[current].label
            if self._time({before: current, label: floating}, before)[label]["verdict"] == "faster":
                current = floating
        return current

    def _time(self, points: dict[str, Floating], against: str = PARENT, effort: str | None = None) -> dict[str, Any]:
        """Times them with the parent; the ratios to the one ``against``."""
        bench = self.bench.model_copy(update={"effort": effort}) if effort else self.bench
        asked = {PARENT: frozenset(self.ranked), **points}
        found = self.folder.run(TimedStep(self.judged, asked, bench, against)).result
        self.busy = max(self.busy, found["other_cpu_percent"] or 0.0)
        for label, floating in asked.items():
            ratio = found["ratios"].get(label) or {"median": 1.0, "low": 1.0, "high": 1.0, "verdict": "the parent"}
            self.points[floating] = Point(label, floating, self.tried(floating), ratio, found["ms"][label])
        return found["against"]

    def _fastest(self) -> Floating:
        """Of what was timed and loses little enough; the parent does."""
        able = [each for each in self.points.values() if self._loses_little(each.floating)]
        return min(able, key=lambda each: each.ratio["median"]).floating

    def _last(self, current: Floating) -> tuple[Floating | None, str, dict[str, Any] | None]:
        """The layers that stay in float, once more timed for longer; None where the parent, or the target as it is, is
        as good. What it comes to, in a sentence."""
        name, allowed = self.judged.target.name, f"loses at most {self.allowed:g} points on validation images"
        nothing = f"No choice of layers is shown to be faster than the fp32 file and {allowed}: ship fp32."
        if current == frozenset(self.ranked):
            return None, nothing, None
        label, whole = self.points[current].label, self._loses_little(NONE)
        pair = self._time({INT8: NONE, label: current}, INT8, "quick").get(label)
        faster = {floating: self.points[floating].ratio["verdict"] == "faster" for floating in (NONE, current)}
        if whole and faster[NONE] and (pair is None or pair["verdict"] != "faster"):
            return None, f"No layer in float is shown to make {name} faster, and it {allowed} as it is.", pair
        if not faster[current]:
            return None, nothing, pair
        gain = "" if pair is None else f", and {pair['median']:.2f} times that of all layers in int8"
        ratio = self.points[current].ratio["median"]
        count = f"{len(current)} of {len(self.ranked)} layers in float"
        return current, f"With {count} the file {allowed} and takes {ratio:.2f} times fp32's latency{gain}.", pair

    def _rows(self, chosen: Floating | None) -> list[dict[str, Any]]:
        """The points by their time, with those on the front marked: none is faster and scores as high."""
        ranked = sorted(self.points.values(), key=lambda each: each.ratio["median"])
        best, found = -1.0, []
        for point in ranked:
            front = point.facts["score"] > best
            best = max(best, point.facts["score"])
            share = self.judged.layers.share(point.floating)
            found.append({**point.row(share, front), "chosen": point.floating == chosen})
        return found

    def _write(self, run: Path, chosen: Floating, enough: Floating) -> Path:
        """The target, for a recipe's ``export.targets``."""
        target = self.judged.with_float(chosen)
        facts = target.model_dump(mode="json", exclude_unset=True, exclude={"name"})
        facts["description"] = f"{target.description}; {len(chosen)} of {len(self.ranked)} layers in float"
        why = {"what they lose": chosen & enough, "their time": chosen - enough}
        said = [f"# In float for {what}: {', '.join(sorted(names))}\n" for what, names in why.items() if names]
        text = "".join(said) + yaml.safe_dump(facts, sort_keys=False, width=120)
        path = Ours(run).write(file_name(target.name), text)
        load_target(path)
        return path


def file_name(target: str) -> str:
    """Of the target that a search writes."""
    return f"{target}-mixed.yaml"
