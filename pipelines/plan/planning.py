"""The flow of a plan: count, build and measure what is left, judge, propose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdcompress.bench.advice import advice
from kdcompress.bench.devices import LOCAL
from kdcompress.bench.machine import machine
from kdcompress.console import say
from kdcompress.errors import KDCompressError, UsageError, reason
from kdcompress.export import formats
from kdcompress.models.names import form, heads
from kdcompress.pipelines.checks import Tried, check
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.plan import choose
from kdcompress.pipelines.plan.candidates import TRIED, student_of, students
from kdcompress.pipelines.plan.count import counted, foreign
from kdcompress.pipelines.plan.measure import BuildStep, File, TimeStep, built, label, latencies, pace, slug
from kdcompress.pipelines.plan.records import PARENT, Built, Counted, Judged, Latency, ranked
from kdcompress.pipelines.provenance import provenance
from kdcompress.pipelines.runs import Done, RunFolder
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.timed import timed
from kdcompress.pipelines.verdict import check_budgets
from kdcompress.recipe import Recipe, Student
from kdcompress.report.figures import count, size
from kdcompress.tasks import tasks

GROUP = 6  # candidates timed in turns, with the baseline


@dataclass
class Measured:
    """What was built and timed so far, by the candidate's name."""

    built: dict[str, Built] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)  # why it is no candidate any more
    groups: list[Done] = field(default_factory=list)

    def baseline(self, targets: Sequence[formats.Target]) -> File | None:
        """What every group is measured with: the recipe's own student, or the first that was built."""
        return next(((name, target.name) for name in self.built for target in targets), None)

    def latency(self, name: str, targets: Sequence[formats.Target]) -> dict[str, Latency | str]:
        """By target, or why it could not be timed."""
        files = [(name, target.name) for target in targets]
        return {target: each for (_, target), each in latencies(self.groups, self.baseline(targets), files).items()}


class Planning:
    """A plan for ``recipe``, whose budgets say for which targets, in a folder. ``asked``: names of candidates."""

    def __init__(
        self, recipe: Recipe, folder: Path, asked: Sequence[str] = (), effort: str = "rapid", command: str = ""
    ):
        self.recipe, self.folder, self.effort, self.command = recipe, RunFolder(folder), effort, command
        self.asked, self.sources = asked, Sources(recipe.data, recipe.task, recipe.lifelong)
        self._forms: dict[str, str | None] = {}

    @cached_property
    def targets(self) -> tuple[formats.Target, ...]:
        return tuple(formats.chosen(self.recipe.budgets.target))

    @cached_property
    def timed(self) -> list[formats.Target]:
        return timed(self.recipe.bench.device, self.targets)

    @cached_property
    def candidates(self) -> list[Counted]:
        """The recipe's own student, then the others by their size, counted and held to what counting can tell."""
        side = max(self.sources.main.train.images.shape[1:3])
        found = students(self.recipe, self.asked, side, self._foreign)
        own, *others = [counted(self._networks(student), self.targets) for student in found]
        held = [
            each if each.out else replace(each, out=choose.too_large(each, self.recipe, self.targets))
            for each in others
        ]
        return [own, *sorted(held, key=lambda each: each.macs)]  # what the others are compared to is not ruled out

    def _foreign(self, name: str) -> str | None:
        """Why it is for another task: one network is tried for all that answer alike."""
        kind = form(name)
        if kind not in self._forms:
            shown = name if kind == name else "/".join(filter(None, (kind, TRIED)))
            student = student_of(self.recipe, shown)
            self._forms[kind] = foreign(self._networks(student))
            if self._forms[kind] is None and kind in heads():  # or the recipe's options do not fit the head
                self._forms[kind] = foreign(self._networks(student.model_copy(update={"options": {}})))
        return self._forms[kind]

    def _networks(self, student: Student) -> Networks:
        recipe = self.recipe.model_copy(update={"student": student})
        return Networks(recipe, parts_of(recipe), self.sources)

    def check(self) -> None:
        """Raises UsageError or RuntimeMissingError for what can be known to fail."""
        if self.recipe.train is None:
            raise UsageError("The recipe's student is trained already: there is nothing to plan.", where="train: null")
        if formats.AUTO in self.recipe.budgets.target or not self.recipe.budgets.target:
            raise UsageError(
                "A plan needs named targets.",
                where="--target",
                got=", ".join(self.recipe.budgets.target) or "none, and the recipe exports none that is timed here",
                hint="`kdcompress list targets` shows them",
            )
        for target in self.targets:
            formats.writers[target.writer].check()
        check_budgets(self.recipe)
        check(self._networks(self.recipe.student), Tried())  # each candidate is built by the targets' writers
        _ = self.candidates

    def run(self) -> Plan:
        """Build and measure what is not yet. The folder must be held."""
        begun, before, measured = time.monotonic(), machine(), Measured()
        waiting = [each for each in self.candidates if each.out is None]
        of = len(self.candidates)
        say(f"{len(waiting)} of {of} candidates are to be built; the others are too large")
        group: list[Counted] = []
        for number, candidate in enumerate(waiting, 1):
            if self._is_built(candidate, f"[{number}/{len(waiting)}]", measured):
                group.append(candidate)
            if len(group) == GROUP:
                self._time_group(group, measured)
                group = []
        self._time_group(group, measured)
        judged, further = self._chosen([self._judged(each, measured) for each in self.candidates], measured)
        return Plan(self, judged, measured, further, before, time.monotonic() - begun)

    def _is_built(self, candidate: Counted, where: str, measured: Measured) -> bool:
        """Builds it, unless it is too slow by what was measured. One that cannot be exported stops nothing."""
        others = {target.name: self._paces(target, measured) for target in self.timed}
        if (why := choose.too_slow(candidate.macs, self.recipe.budgets.latency_ms, others)) is not None:
            measured.out[candidate.name] = why
            return False
        try:
            found = built(self.folder, BuildStep(self._networks(candidate.student), candidate, self.targets))
        except Exception as error:
            measured.out[candidate.name] = f"not built: {reason(error)[0]}"
            say(f"{where} {candidate.name}: {measured.out[candidate.name]}", style="yellow")
            return False
        measured.built[candidate.name] = found
        sizes = ", ".join(size(value) for value in found.bytes.values())
        took = "built before" if found.done.reused else f"built in {found.done.seconds:.1f} s"
        say(f"{where} {candidate.name}: {count(candidate.macs)} multiply-accumulates, {took}, {sizes}")
        return True

    def _paces(self, target: formats.Target, measured: Measured) -> list[tuple[int, float]]:
        """Multiply-accumulates and ms of what was timed for the target."""
        found = [(each.macs, measured.latency(each.name, [target]).get(target.name)) for each in self.candidates]
        return [(macs, latency.ms) for macs, latency in found if isinstance(latency, Latency)]

    def _time_group(self, group: Sequence[Counted], measured: Measured) -> None:
        baseline = measured.baseline(self.timed)
        if not group or baseline is None:
            return
        files = [baseline, *((each.name, target.name) for each in group for target in self.timed)]
        measured.groups.append(self._time(f"latency-{len(measured.groups) + 1}", list(dict.fromkeys(files)), measured))

    def _time(self, name: str, files: Sequence[File], measured: Measured) -> Done:
        artifacts = {label(file): measured.built[file[0]].artifacts[file[1]] for file in files}
        bench = self.recipe.bench.model_copy(update={"effort": self.effort})
        return self.folder.run(TimeStep(name, self.sources, bench, artifacts))

    def _judged(self, candidate: Counted, measured: Measured) -> Judged:
        found = measured.latency(candidate.name, self.timed)
        failed = next((each for each in found.values() if isinstance(each, str)), None)
        out = candidate.out or measured.out.get(candidate.name) or failed
        times = {target: each for target, each in found.items() if isinstance(each, Latency)}
        return choose.judged(candidate, measured.built.get(candidate.name), times, out, self.recipe, self.targets)

    def _chosen(self, candidates: Sequence[Judged], measured: Measured) -> tuple[list[Judged], list[Done]]:
        """With those ruled out that have more capacity than the one that is proposed, and cannot be taught or lose to
        their own fp32; and the steps that showed the latter."""
        found = choose.with_front(candidates, len(self.timed))
        further: list[Done] = []
        for each in ranked(found) if choose.limited(self.recipe.budgets) else ():
            place = found.index(each)
            if (why := self._untaught(each)) is not None:
                found[place] = replace(each, out=why)
                continue
            slower = self._slower_than_fp32(each, measured, further)
            found[place] = replace(each, missed=slower)
            if not slower:
                break
        return found, further

    def _untaught(self, candidate: Judged) -> str | None:
        """Why the recipe's method cannot teach it."""
        try:
            self._networks(candidate.student).distillation("student")
        except UsageError as error:
            return f"{' + '.join(self.recipe.method)} cannot teach it: {error.what}"
        return None

    def _slower_than_fp32(self, candidate: Judged, measured: Measured, further: list[Done]) -> tuple[str, ...]:
        """Of int8 files that a run would fail: those that are slower than the fp32 that they were made from."""
        int8 = [(candidate.name, target.name) for target in self.timed if target.precision == "int8"]
        if not int8:
            return ()
        files = [(candidate.name, PARENT), *int8]
        further.append(self._time(f"against-fp32-{slug(candidate.name)}", files, measured))
        return choose.slower_than_fp32({file[1]: further[-1].result[label(file)]["ratio"] for file in int8})


@dataclass(frozen=True)
class Plan:
    """What a plan found."""

    planning: Planning
    candidates: list[Judged]
    measured: Measured
    further: list[Done]
    machine: dict[str, Any]  # before
    seconds: float

    @property
    def limited(self) -> bool:
        return choose.limited(self.planning.recipe.budgets)

    def inside(self) -> list[Judged]:
        """The budgets, most capacity first; the first is the one that is proposed."""
        return ranked(self.candidates) if self.limited else []

    def document(self) -> dict[str, Any]:
        recipe, groups = self.planning.recipe, self.measured.groups
        baseline = self.measured.baseline(self.planning.timed)
        found, builds = self.inside(), [each.done for each in self.measured.built.values()]
        return {
            **provenance(recipe, self.planning.command),
            "metric": vars(tasks[recipe.task].judging(recipe.metric).metric),
            "targets": [target.model_dump(mode="json") for target in self.planning.targets],
            "budgets": recipe.budgets.model_dump(mode="json", exclude={"candidates"}),
            "threads": recipe.bench.threads,
            "device": recipe.bench.device,
            "effort": self.planning.effort,
            "baseline": baseline and {"name": baseline[0], "target": baseline[1], "ms": pace(groups)},
            "candidates": [each.to_json() for each in self.candidates],
            "proposed": found[0].name if found else None,
            "seconds": {
                "building": round(sum(done.seconds for done in builds), 1),
                "measuring": round(sum(done.seconds for done in groups), 1),
                "this call": round(self.seconds, 1),
            },
            "steps": [done.record() for done in (*builds, *self.further, *groups)],
            "advice": advice({}, self.machine, machine()) if recipe.bench.device == LOCAL else [],
        }

    def nothing_fits(self) -> KDCompressError:
        """For the end of a plan with nothing to propose, with the candidate that misses least."""
        made = [each for each in self.candidates if each.out is None and each.bytes]
        near = min(made, key=lambda each: (len(each.missed), each.macs), default=None)
        return KDCompressError(
            "No candidate is inside the budgets.",
            got=f"nearest: {near.name}, {'; '.join(near.missed)}" if near else "none could be built and timed",
            hint="larger budgets, other --candidates (names, patterns, prune=0.75), or another target",
        )
