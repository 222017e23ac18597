"""`kdcompress plan`: which student fits the budgets, found by measuring candidates before anything is trained.

Latency, size and memory do not depend on the weights. What can be counted rules candidates out before they are built;
the others are built for the target by the product's own writers, with random weights and the batch-norm statistics of
real images, and are timed in groups, each with the same baseline: ratios to it connect the groups on a machine that
drifts. Every build and every group is a stage, so that an interrupted plan goes on where it was.

Capacity is counted in multiply-accumulates. Over the 14 networks of the zoo that have a published CIFAR-100 accuracy
without distillation (the tables of CRD, arXiv:1910.10699) the rank correlation of accuracy with multiply-accumulates is
0.93, with parameters 0.58: parameters favour wide layers at low resolution (vgg8, mobilenetv2), which see few places.
"""

from __future__ import annotations

import fnmatch
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import nn

from kdcompress.artifact import Artifact, clean_name, kept_json, write_text
from kdcompress.bench.advice import advice
from kdcompress.bench.devices import LOCAL
from kdcompress.bench.machine import machine
from kdcompress.console import say
from kdcompress.data.source import Source
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import formats
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build, count_parameters, largest_layer, macs, names, pretrained_facts
from kdcompress.models.merge import merge_branches
from kdcompress.own_code import imported
from kdcompress.pipelines.compress import Compression, provenance, reason
from kdcompress.pipelines.parts import named
from kdcompress.pipelines.preflight import settle
from kdcompress.pipelines.stages import Done, Stage
from kdcompress.pipelines.timed import conditions, time_files, timed, untimed
from kdcompress.pipelines.user_code import code_hash
from kdcompress.pipelines.verdict import BYTES, check_budgets
from kdcompress.recipe import Candidate, Recipe, Search, Section, Student, validate_recipe
from kdcompress.report.present import count, over, significant, size

# timm's families for phones, in widths and depths; they halve the resolution five times, which small images have not.
MOBILE = (
    *(f"timm/lcnet_{width}" for width in ("035", "050", "075", "100", "150")),
    *(f"timm/mobilenetv3_small_{width}" for width in ("050", "075", "100")),
    *("timm/mobilenetv4_conv_small", "timm/mobilenetv4_conv_medium", "timm/mobilenetv3_large_100"),
    *("timm/mobilenetv2_050", "timm/mobilenetv2_100", "timm/mobilenetv2_140"),
    *("timm/tinynet_e", "timm/tinynet_c", "timm/tinynet_a", "timm/ghostnet_100", "timm/mobileone_s0"),
    *("timm/efficientnet_lite0", "timm/repvgg_a0"),
)
GROUPS = ("zoo", "mobile")
SMALL = 64  # pixels a side, below which the zoo's networks are the defaults, and timm's from there on
IMAGES = 64  # training images for batch-norm statistics and the quantiser's ranges: speed and size need no more
GROUP = 6  # candidates timed in turns, with the baseline
SPEED_MARGIN = 3.0  # a candidate is ruled out unmeasured if it misses at so many times the best pace measured
WEIGHTLESS: dict[str, Any] = {"weights": None, "pretrained": False}
PARENT = "fp32"  # of a candidate: the file that those for the targets are made from
MARK = "# Written by `kdcompress plan`"


@dataclass
class Look:
    """What is known of one candidate. Figures by target are under its name; latencies in ms."""

    student: Student
    macs: int = 0
    parameters: int = 0
    weights: int = 0  # of convolutions and matrix products: what stays when batch normalisation is folded
    activations: int = 0  # values in and out of the layer that has most
    out: str | None = None  # why it is no candidate any more
    missed: list[str] = field(default_factory=list)  # budgets, each with by how much
    bytes: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    latency: dict[str, dict[str, float]] = field(default_factory=dict)  # ms, low and high: 95 %
    front: bool = False  # no other does as much as fast
    seconds: float = 0.0  # to build it

    @property
    def name(self) -> str:
        return f"pruned by {self.student.ratio:g}" if self.student.prune else named(self.student)

    @property
    def inside(self) -> bool:
        return self.out is None and not self.missed

    def verdict(self) -> str:
        return self.out or "; ".join(self.missed) or "inside"

    def counts(self) -> dict[str, str]:
        return {"macs": count(self.macs), "parameters": count(self.parameters)}

    def to_json(self) -> dict[str, Any]:
        student = self.student.model_dump(mode="json", exclude_defaults=True)
        facts = {key: value for key, value in vars(self).items() if key != "student"}
        return {"name": self.name, "student": student, **facts, "inside": self.inside}


def expand(asked: Sequence[str], side: int) -> list[str]:
    """The names that ``asked`` stands for: names, patterns ("resnet*"), "zoo", "mobile" and "prune=0.5"; with none,
    the defaults for images of ``side`` pixels. Raises UsageError for an unknown name and a pattern of none."""
    known = names()
    everything = [name for group in known.values() for name in group]
    groups = {"zoo": known["zoo"], "mobile": list(MOBILE)}
    found: list[str] = []
    for name in asked or (GROUPS[:1] if side < SMALL else GROUPS):
        if name in groups:
            found += groups[name]
        elif any(letter in name for letter in "*?["):
            matching = fnmatch.filter(everything, name)
            if not matching:
                raise UsageError("No model has a name like this.", where="--candidates", got=name)
            found += matching
        elif ":" in name:
            imported("model", name)
            found.append(name)
        elif name.startswith("prune=") or name in everything:
            found.append(name)
        else:
            build(name, 10, 3)  # raises with the nearest name
    return list(dict.fromkeys(found))


class Planning:
    """A plan for ``recipe``, whose budgets say for which targets, in a folder."""

    def __init__(
        self, recipe: Recipe, folder: Path, asked: Sequence[str] = (), effort: str = "rapid", command: str = ""
    ):
        self.recipe, self.effort, self.command = recipe, effort, command
        self.asked = asked
        self.own = Compression(recipe, folder, command)
        self.folder = self.own.folder
        self.budgets = recipe.budgets
        self.built: dict[tuple[str, str], Artifact] = {}  # (candidate, target)
        self.groups: list[Done] = []
        self.stages: list[Done] = []

    @property
    def source(self) -> Source:
        return self.own.source

    @cached_property
    def targets(self) -> list[formats.Target]:
        return formats.chosen(self.budgets.target)

    @cached_property
    def timed(self) -> list[formats.Target]:
        return timed(self.recipe.bench.device, self.targets)

    @cached_property
    def looks(self) -> list[Look]:
        """The recipe's own student, then the candidates, counted and held to what counting can tell."""
        base = self.recipe.student
        students = [base.model_copy(update=WEIGHTLESS)]
        for name in expand(self.asked, max(self.source.train.images.shape[1:3])):
            student = self._student(name)
            if student not in students:
                students.append(student)
        looks = [Look(student) for student in students]
        for look in looks:
            try:
                self._count(look)
            except Exception as error:  # of a network for other images, in words of its library
                look.out = f"not built: {reason(error)[0]}"
            else:
                look.out = self._too_large(look) if look is not looks[0] else None  # what the others are compared to
        return [looks[0], *sorted(looks[1:], key=lambda look: look.macs)]

    def _student(self, name: str) -> Student:
        base = self.recipe.student
        if name.startswith("prune="):
            if self.recipe.teacher is None:
                raise UsageError("A student is pruned of a teacher, and there is none.", where="--candidates", got=name)
            try:
                return Student(prune="teacher", ratio=float(name.removeprefix("prune=")))
            except ValueError as error:
                allowed = "prune=0.5 and so on, between 0 and 1"
                raise UsageError(
                    "This is no share of channels.", where="--candidates", got=name, allowed=allowed
                ) from error
        size = None if base.prune else base.size
        same = name == base.model and not base.prune
        return base.model_copy(update=WEIGHTLESS) if same else Student(model=name, size=size)

    def check(self) -> None:
        """Raises UsageError or RuntimeMissingError for what can be known to fail."""
        if self.recipe.train is None:
            raise UsageError("The recipe's student is trained already: there is nothing to plan.", where="train: null")
        if formats.AUTO in self.budgets.target or not self.budgets.target:
            raise UsageError(
                "A plan needs targets that are named.",
                where="--target",
                got=", ".join(self.budgets.target) or "none, and the recipe exports none that is timed here",
                hint="`kdcompress list targets` shows them",
            )
        for target in self.targets:
            formats.writers[target.writer].check()
        check_budgets(self.recipe)
        self.own.check(ships=False)  # each candidate is built by the targets' writers
        _ = self.looks

    def _compression(self, student: Student) -> Compression:
        made = Compression(self.recipe.model_copy(update={"student": student}), self.folder.path, self.command)
        made.source = self.source  # the same for all
        return made

    # What can be counted

    def _count(self, look: Look) -> None:
        made = self._compression(look.student)
        spec = made.spec("student")
        net, device = self._outline(made)
        side = made.parts["student"].network.size
        x = torch.zeros(1, spec.channels, side or spec.height, side or spec.width, device=device)
        look.macs, look.parameters = macs(net, x), count_parameters(net)
        look.weights = sum(p.numel() for p in net.parameters() if p.ndim > 1)
        look.activations = largest_layer(net, x)
        for target in self.targets:
            each = BYTES[target.precision]
            look.memory[target.name] = (look.weights + look.activations) * each

    def _outline(self, made: Compression) -> tuple[nn.Module, str]:
        """The network as it ships, without memory for its weights where that can be done, and its device."""
        if not made.recipe.student.prune:
            try:
                with torch.device("meta"):
                    net = made.untrained("student")
                    merge_branches(net)
                    return net, "meta"
            except (NotImplementedError, RuntimeError, UsageError):  # it computes with values as it is made
                pass
        return made.as_it_ships("student", made.untrained("student")), "cpu"

    def _too_large(self, look: Look) -> str | None:
        if (why := self._too_many_parameters(look)) is not None:
            return why
        for target in self.targets:
            weights = look.weights * BYTES[target.precision]
            if self.budgets.size_bytes is not None and weights > self.budgets.size_bytes:
                return f"its weights alone are {size(weights)} in {target.precision}"
            if self.budgets.memory_bytes is not None and look.memory[target.name] > self.budgets.memory_bytes:
                return f"it has to hold {size(look.memory[target.name])} in {target.precision}"
        return None

    def _too_many_parameters(self, look: Look) -> str | None:
        limit = self.recipe.gates.student_parameters
        if limit is None or look.parameters <= limit:
            return None
        return f"{count(look.parameters)} parameters, and gates.student_parameters allows {count(limit)}"

    def _too_slow(self, look: Look) -> str | None:
        """Why it misses, by the best pace of what was measured before, with a margin."""
        if self.budgets.latency_ms is None:
            return None
        for target in self.timed:
            paces = [
                other.macs / other.latency[target.name]["ms"] for other in self.looks if target.name in other.latency
            ]
            if paces and (at_best := look.macs / (SPEED_MARGIN * max(paces))) > self.budgets.latency_ms:
                return (
                    f"{significant(at_best)} ms even at {SPEED_MARGIN:g} times the best pace measured on {target.name}"
                )
        return None

    # What is built and measured

    def run(self) -> dict[str, Any]:
        """Build and measure what is not yet, and return the plan's document. The folder must be held."""
        begun = time.monotonic()
        waiting = [look for look in self.looks if look.out is None]
        say(f"{len(waiting)} of {len(self.looks)} candidates are to be built; the counts of the others rule them out")
        before, group, done = machine(), [], 0
        for look in waiting:
            done += 1
            if (why := self._too_slow(look)) is not None:
                look.out = why
                continue
            if self._build(look, f"[{done}/{len(waiting)}]"):
                group.append(look)
            if len(group) == GROUP:
                self._measure(group)
                group = []
        self._measure(group)
        self._judge()
        while (best := self._proposed()) is not None and (slower := self._slower_than_fp32(best)):
            best.missed += slower
        return {
            **provenance(self.recipe, self.command),
            "targets": [target.model_dump(mode="json") for target in self.targets],
            "budgets": self.budgets.model_dump(mode="json", exclude={"candidates"}),
            "threads": self.recipe.bench.threads,
            "device": self.recipe.bench.device,
            "effort": self.effort,
            "baseline": self._baseline and {"name": self._baseline[0], "target": self._baseline[1], "ms": self._pace()},
            "candidates": [look.to_json() for look in self.looks],
            "proposed": best and best.name,
            "seconds": {
                "building": round(sum(look.seconds for look in self.looks), 1),
                "measuring": round(sum(done.seconds for done in self.groups), 1),
                "this call": round(time.monotonic() - begun, 1),
            },
            "stages": [done.record() for done in (*self.stages, *self.groups)],
            "advice": advice({}, before, machine()) if self.recipe.bench.device == LOCAL else [],
        }

    def _build(self, look: Look, where: str) -> bool:
        try:
            done = self.folder.run(self._build_stage(look))
        except Exception as error:  # one that cannot be exported stops nothing
            look.out = f"not built: {reason(error)[0]}"
            say(f"{where} {look.name}: {look.out}", style="yellow")
            return False
        self.stages.append(done)
        look.seconds = done.seconds
        for name, facts in done.result.items():
            self.built[look.name, name] = Artifact.from_json(facts, done.folder)
        for target in self.targets:
            artifact = self.built[look.name, target.name]
            look.bytes[target.name] = artifact.bytes
            each = BYTES[target.precision]
            look.memory[target.name] = artifact.bytes + look.activations * each
        sizes = ", ".join(size(value) for value in look.bytes.values())
        took = "built before" if done.reused else f"built in {done.seconds:.1f} s"
        say(f"{where} {look.name}: {count(look.macs)} multiply-accumulates, {took}, {sizes}")
        return True

    def _build_stage(self, look: Look) -> Stage:
        made, export = self._compression(look.student), self.recipe.export

        def work(folder: Path) -> dict[str, Any]:
            images = made.calibration()[:IMAGES]
            net = untrained_as_shipped(made)
            settle(net, made.member("student", net).input(torch.from_numpy(images).permute(0, 3, 1, 2)))
            module = made.deployable("student", net)
            parent = export_onnx(module, module.spec, folder / "candidate.onnx", opset=export.opset)
            job = formats.ExportJob(module, parent, images, folder, "candidate")
            made_for = {target.name: formats.build(job, target).to_json() for target in self.targets}
            return {**made_for, PARENT: parent.to_json()}

        params = {
            "student": look.student.model_dump(mode="json", exclude_defaults=True),
            "method": self.recipe.method,
            "layout": export.layout,
            "batch": export.batch,
            "opset": export.opset,
            "targets": [target.model_dump(mode="json") for target in self.targets],
        }
        packages = sorted({name for target in self.targets for name in formats.writers[target.writer].packages})
        inputs = {"data": self.source.hash}
        if ":" in look.student.model:
            inputs["code"] = code_hash(look.student.model)
        packages = ["torch", "timm", "onnx", "onnxruntime", *packages]
        return Stage(f"build-{_slug(look.name)}", work, params, inputs, tuple(packages))

    @property
    def _baseline(self) -> tuple[str, str] | None:
        """(candidate, target) that every group is measured with: the recipe's own student, or the first there is."""
        return next(((name, target) for name, target in self.built if target in {t.name for t in self.timed}), None)

    def _measure(self, group: Sequence[Look]) -> None:
        if not self.timed or not group or self._baseline is None:
            return
        members = [self._baseline, *((look.name, target.name) for look in group for target in self.timed)]
        self.groups.append(self._time(f"latency-{len(self.groups) + 1}", list(dict.fromkeys(members))))
        self._read_latencies()

    def _slower_than_fp32(self, look: Look) -> list[str]:
        """Of int8 files that a run would fail: those that are slower than the fp32 that they were made from."""
        int8 = [(look.name, target.name) for target in self.timed if target.precision == "int8"]
        if not int8:
            return []
        done = self._time(f"against-fp32-{_slug(look.name)}", [(look.name, PARENT), *int8])
        self.stages.append(done)
        ratios = {target: done.result[f"{name} {target}"]["ratio"] for name, target in int8}
        return [
            f"int8 on {target} takes {ratio['median']:.2f} times what its fp32 does"
            for target, ratio in ratios.items()
            if ratio and ratio["verdict"] == "slower"
        ]

    def _time(self, stage: str, members: Sequence[tuple[str, str]]) -> Done:
        """Their records, timed in turns; ratios are to the first."""
        artifacts = {f"{name} {target}": self.built[name, target] for name, target in members}
        bench = self.recipe.bench.model_copy(update={"effort": self.effort})

        def work(folder: Path) -> dict[str, Any]:
            first = next(iter(artifacts))
            images = self.source.test.images[:1024]
            records = time_files(artifacts, images, bench, baseline=first, needed=artifacts).records
            if why := records[first].failed:
                raise KDCompressError("The file that all are compared to cannot be timed.", where=first, got=why)
            return {label: record.to_json() for label, record in records.items()}

        inputs = {label: artifact.sha256 for label, artifact in artifacts.items()}
        return self.folder.run(Stage(stage, work, conditions(bench), inputs))

    def _pace(self) -> float | None:
        """The baseline's median latency, ms: the middle one of the groups."""
        found = [next(iter(done.result.values()))["median_ms"] for done in self.groups]
        return statistics.median(value for value in found if value) if any(found) else None

    def _read_latencies(self) -> None:
        """From each group's ratios to the baseline; that one's own from all groups."""
        pace = self._pace()
        records = {label: record for done in self.groups for label, record in done.result.items()}
        for look in self.looks:
            for target in self.timed:
                record = records.get(f"{look.name} {target.name}")
                if record is None:
                    continue
                if (look.name, target.name) == self._baseline and pace:
                    look.latency[target.name] = {"ms": pace, "low": pace, "high": pace}
                elif record["failed"]:
                    look.out = f"not measured: {record['failed']}"
                elif pace and record["ratio"] and record["ratio"]["median"]:
                    values = (record["ratio"][key] * pace for key in ("median", "low", "high"))
                    look.latency[target.name] = dict(zip(("ms", "low", "high"), values, strict=True))

    # What it comes to

    def _judge(self) -> None:
        for look in self.looks:
            if look.out is None:
                parameters = self._too_many_parameters(look)
                look.missed = [parameters] if parameters else []
                look.missed += [each for target in self.targets for each in self._misses(look, target)]
        measured = [look for look in self.looks if len(look.latency) == len(self.timed) > 0]
        for look in measured:
            look.front = not any(_beats(other, look) for other in measured)

    def _misses(self, look: Look, target: formats.Target) -> Iterator[str]:
        """The budgets that it does not meet, each with by how much. Of a latency the interval's upper end counts."""
        name = f" on {target.name}" if len(self.targets) > 1 else ""
        latency = look.latency.get(target.name, {}).get("high")
        figures = (
            ("latency", latency, self.budgets.latency_ms),
            ("size", look.bytes.get(target.name), self.budgets.size_bytes),
            ("memory", look.memory.get(target.name), self.budgets.memory_bytes),
        )
        for what, value, limit in figures:
            if limit is not None and value is None:
                yield f"{what}{name} not known"
            elif limit is not None and value is not None and value > limit:
                yield f"{what}{name} {over(value, limit)}"

    def _proposed(self) -> Look | None:
        """The one with the most capacity inside the budgets that the recipe's method can teach."""
        for look in ranked(self.looks) if self.limited else ():
            try:
                self._compression(look.student).distillation("student")
                return look
            except UsageError as error:
                look.out = f"{' + '.join(self.recipe.method)} cannot teach it: {error.what}"
        return None

    @property
    def limited(self) -> bool:
        """Whether there is a budget that can be known before a training."""
        return any(getattr(self.budgets, name) is not None for name in ("latency", "size", "memory"))

    def nothing_fits(self) -> KDCompressError:
        """For the end of a plan with nothing to propose, with the candidate that misses least."""
        built = [look for look in self.looks if look.out is None and look.bytes]
        near = min(built, key=lambda look: (len(look.missed), look.macs), default=None)
        return KDCompressError(
            "No candidate is inside the budgets.",
            got=f"nearest: {near.name}, {'; '.join(near.missed)}" if near else "none could be built and timed",
            hint="larger budgets, other --candidates (names, patterns, prune=0.75), or another target",
        )

    def planned(self, most: int) -> tuple[Candidate, ...]:
        """What goes into a recipe: those inside the budgets, most capacity first."""
        return tuple(
            Candidate(
                student=self.shipped(look.student),
                macs=look.macs,
                parameters=look.parameters,
                latency_ms={name: round(found["ms"], 4) for name, found in look.latency.items()},
                bytes=look.bytes,
            )
            for look in ranked(self.looks)[:most]
        )

    def shipped(self, student: Student) -> Student:
        """As the recipe is to have it: its own student as it stands there, another with the library's weights where
        the recipe starts from such."""
        own = self.recipe.student
        if student == self.looks[0].student:
            return own
        if not own.pretrained or student.prune:
            return student
        try:
            pretrained_facts(student.model, student.options)
        except UsageError:
            return student
        return student.model_copy(update={"pretrained": True})


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def ranked(looks: Iterable[Look]) -> list[Look]:
    """Those inside the budgets, most capacity first."""
    return sorted((look for look in looks if look.inside), key=lambda look: (-look.macs, -look.parameters))


def _beats(other: Look, look: Look) -> bool:
    """Whether it does at least as much in at most the time, and is better in one of them."""
    pairs = [(other.latency[name]["ms"], look.latency[name]["ms"]) for name in look.latency]
    return (
        other.macs >= look.macs
        and all(theirs <= own for theirs, own in pairs)
        and (other.macs > look.macs or any(theirs < own for theirs, own in pairs))
    )


def untrained_as_shipped(made: Compression) -> nn.Module:
    """The student with random weights, and with what its methods keep."""
    kept = any(kind.deploy == "keep" for kind in made.parts["student"].kinds)
    return made.distillation("student").deployable() if kept else made.untrained("student")


def asked_for(data: dict[str, Any], budgets: dict[str, Any], bench: dict[str, Any]) -> Recipe:
    """``data``, a recipe as it was written, changed in place to what the command asks of it: its ``budgets`` and
    ``bench`` over those in the recipe, the budgets' targets among those that are exported, and for no budget's target
    those that are timed on the device. Raises UsageError where that is no valid recipe."""
    read = data.get("export") or {}
    if not all(isinstance(data.get(section) or {}, dict) for section in ("budgets", "export", "bench")) or not (
        isinstance(read.get("targets") or [], (str, list))
    ):
        return validate_recipe(data)  # which says so
    merged = {**(data.get("budgets") or {}), **budgets}
    merged.pop("candidates", None)  # an earlier plan's
    search = data.pop("search", None)
    _search(search)
    data["budgets"] = merged
    if bench:
        data["bench"] = {**(data.get("bench") or {}), **bench}
    export = data.get("export") or {}
    known = export.get("targets") or []
    known = [known] if isinstance(known, str) else list(known)
    further = [name for name in budgets.get("target", ()) if name not in known]
    if further and formats.AUTO not in known:
        data["export"] = {**export, "targets": [*known, *further]}
    recipe = validate_recipe(data)
    if not recipe.budgets.target and formats.AUTO not in recipe.export.targets:
        chosen = formats.chosen(recipe.export.targets)
        without = untimed(recipe.bench.device, chosen)
        merged["target"] = [
            name
            for name, target in zip(recipe.export.targets, chosen, strict=True)
            if target.name not in without and formats.availability(target)[0]
        ]
        recipe = validate_recipe(data)
    if search is not None:
        data["search"] = search
    return recipe


def write_recipe(data: dict[str, Any], planning: Planning, most: int, path: Path) -> None:
    """``data``, the recipe as it was written, with the proposed student and what the plan found in its budgets."""
    candidates = planning.planned(most)
    written = json.loads(json.dumps(data, default=str))  # where YAML's anchors shared a mapping there are two
    written["name"] = clean_name(path.stem)
    written["student"] = _given(candidates[0].student)
    written["budgets"] = _given(planning.budgets.model_copy(update={"candidates": candidates}))
    search = _search(data.get("search"))
    if search.candidates > len(candidates):
        say(f"search: {len(candidates)} candidates are inside the budgets, and {search.candidates} were to take part")
        written["search"] = {**_given(search), "candidates": len(candidates) if len(candidates) > 1 else 0}
    text = yaml.safe_dump(written, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    write_text(path, f"{MARK}: {planning.command}\n{text}")


def _search(value: Any) -> Search:
    """As the recipe has it, whether or not there are candidates yet. Raises UsageError."""
    try:
        return Search.model_validate({"candidates": value} if type(value) is int else value or {})
    except ValidationError as error:
        got = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'search'}: {e['msg']}" for e in error.errors())
        raise UsageError("The recipe's tournament cannot be held.", where="search", got=got[:400]) from error


def _given(section: Section) -> dict[str, Any]:
    given: dict[str, Any] = section.model_dump(mode="json", exclude_defaults=True)
    return given


def check_output(path: Path, record: Path) -> None:
    """Raise UsageError where a recipe that no plan wrote, or a record, would be written over."""
    if path.exists() and (not path.is_file() or not path.read_text(errors="replace").startswith(MARK)):
        raise UsageError("The file exists, and no plan wrote it.", where=path, hint="choose another with --output")
    kept = kept_json(record)
    if record.exists() and not (isinstance(kept, dict) and {"kdcompress", "candidates", "proposed"} <= set(kept)):
        raise UsageError("The file exists, and no plan wrote it.", where=record, hint="choose another with --output")
    if not path.parent.is_dir():
        raise UsageError("The folder is not there.", where=path.parent, hint="make it, or choose another with --output")
