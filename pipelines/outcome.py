"""What a run has done and what failed, told as the report's document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from kdcompress.bench.devices import LOCAL
from kdcompress.data.splits import Source
from kdcompress.errors import RuntimeMissingError, reason
from kdcompress.export import formats
from kdcompress.intervals import Sample, interval, lost, sample
from kdcompress.pipelines.blind import blind_answers, not_above
from kdcompress.pipelines.inputs import sentence
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Shipped, is_opaque, shipped
from kdcompress.pipelines.provenance import PRIVATE, provenance
from kdcompress.pipelines.runs import Done
from kdcompress.pipelines.steps.check import ANSWERS
from kdcompress.pipelines.steps.names import LATENCY, StepName, artifact_of, checked, exported, trained, weights_of
from kdcompress.pipelines.verdict import BYTES, budgets, gates, judge, margin, predictions
from kdcompress.report.figures import capital
from kdcompress.report.rows import Row, Status, drop_record
from kdcompress.task import Metric

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    networks: Networks
    done: Mapping[StepName, Done]
    errors: Mapping[StepName, Exception]

    def document(self, command: str) -> dict[str, Any]:
        networks, recipe, source = self.networks, self.networks.recipe, self.networks.source
        rows, latency = self.rows(), self.done[LATENCY].result
        limits = gates(recipe, rows) + budgets(recipe, rows)  # a row says where it misses one
        return {
            **provenance(recipe, command),
            "data": {
                "name": source.name,
                "hash": source.hash,
                "origin": PRIVATE if recipe.data.public is not None else source.origin,
                "licence": source.licence,
                "images": {s: len(getattr(source, s)) for s in ("train", "validation", "test")},
            },
            "metric": vars(of_domains(networks.task.metric, source)),
            "rows": [row.to_json() for row in rows],
            "normalisation": {
                role: dict(zip(("mean", "std", "from"), networks.normalisation(role), strict=True))
                for role in shipped(networks.parts)
                if not is_opaque(networks.parts[role].network)
            },
            "teacher_input": sentence(networks),
            "training": [self.done[trained(role)].result for role in networks.parts],
            "pretraining": [done.result for name, done in self.done.items() if name.kind == "pretrain"],
            "tuning": [done.result for name, done in self.done.items() if name.kind == "tune"],
            "lifelong": [done.result for name, done in self.done.items() if name.kind == "learnt"],
            "confusion": self._confusion(),
            "by_label": self._by_label(rows),
            "curves": self._curves(rows),
            "calibration": self._calibration(rows),
            "thresholds": self._thresholds(),
            "pictures": self._pictures(rows),
            "margin": margin(rows),
            "gates": limits,
            "predictions": predictions(recipe, rows),
            "steps": [done.record() for done in self.done.values()],
            "advice": latency["advice"],
            "device": {"name": latency["device"], "machine": latency["machine"]},
        }

    def rows(self) -> list[Row]:
        """A row for each file, those of the fp32 ONNX first, and held to the recipe's bounds."""
        export = self.networks.recipe.export
        rows = [self._row(role, None) for role in shipped(self.networks.parts)]
        parent = rows[-1]
        rows += [self._row("student", target) for target in formats.chosen(export.targets)]
        self._add_intervals(rows)
        self._add_domains(rows)
        for row in rows:
            if row.target and row.score is not None and parent.score is not None:
                row.drop = round(parent.score - row.score, 9)  # so many points are allowed, not less by a last bit
            judge(row, export.max_drop)
        return rows

    def _add_intervals(self, rows: list[Row]) -> None:
        """How far scores, and what is lost to the fp32 parent and to the teacher, may be off."""
        task, truth = self.networks.task, self.networks.source.test.truth
        samples: dict[str, Sample] = {}
        blind = blind_answers(task, truth, self.networks.source.labels)
        for row in rows:
            answers = self._answers(checked(row.role, row.target))
            if row.score is not None and answers is not None:
                mine = samples[row.name] = sample(task, answers, truth, row.score)
                if found := interval(mine):
                    row.images, row.score_low, row.score_high = found.images, found.low, found.high
                parent, teacher = (samples.get(str(exported(role))) for role in (row.role, "teacher"))
                if parent and row.target:
                    row.drop_to_parent = drop_record(lost(mine, parent))
                if teacher and row.role == "student":
                    row.drop_to_teacher = drop_record(lost(mine, teacher))
                told = not_above(mine, *blind) if blind else ""
                if blind and told and not (row.target and parent and not_above(parent, *blind)):
                    row.warnings = [*(row.warnings or []), told]

    def _add_domains(self, rows: list[Row]) -> None:
        """The score on the test images of each domain, where there are several."""
        task, test, domains = self.networks.task, self.networks.source.test, self.networks.source.domains
        for row in rows if domains else ():
            if row.score is not None and (answers := self._answers(checked(row.role, row.target))) is not None:
                weights = np.stack([np.bincount(places, minlength=len(test)) for places in domains.values()])
                found = task.resampled(answers, test.truth, weights).tolist()
                row.details = {**(row.details or {}), **dict(zip(domains, found, strict=True))}

    def _row(self, role: Shipped, target: formats.Target | None) -> Row:
        built, check = (kind(role, target.name if target else None) for kind in (exported, checked))
        row = Row(
            name=str(built),
            role=role,
            format=target.format if target else "onnx",
            precision=target.precision if target else "fp32",
            status="measured",
            target=target.name if target else None,
        )
        row.parameters = self.done[trained(role)].result["parameters"]
        if built in self.errors:
            return _failed(row, self.errors[built], "skipped")
        self._add_file(row, built)
        if check in self.errors:
            return _failed(row, self.errors[check], "built, not run")
        self._add_quality(row, check)
        self._add_latency(row, target)
        return row

    @cached_property
    def _largest_layer(self) -> int:
        """Values in and out of the student's largest layer, of one image."""
        return self.networks.largest_layer("student", self.networks.network("student", weights_of(self.done)))

    def _add_file(self, row: Row, built: StepName) -> None:
        artifact = artifact_of(self.done, built)
        row.file = f"artifacts/{artifact.path.name}"
        row.sha256, row.bytes, row.precision = artifact.sha256, artifact.bytes, artifact.precision
        row.format = artifact.format
        row.coverage = artifact.provenance.get("coverage")
        if row.role == "student" and self.networks.recipe.budgets.memory is not None:
            row.memory = artifact.bytes + self._largest_layer * BYTES[artifact.precision]
        row.build_seconds = artifact.provenance.get("build_seconds", self.done[built].seconds)
        row.ladder = artifact.provenance.get("ladder")

    def _add_quality(self, row: Row, check: StepName) -> None:
        found = self.done[check].result
        row.score, row.details, row.parity, row.runtime = (found[k] for k in ("score", "details", "parity", "runtime"))
        row.answer_ms = found.get("answer_ms")
        teacher, mine = self._answers(checked("teacher")), self._answers(check)
        if teacher is not None and mine is not None:
            row.agreement = self.networks.task.agreement(mine, teacher)
        if mine is not None:
            test, parent = self.networks.source.test, self._answers(checked(row.role)) if row.target else None
            row.warnings = self.networks.task.warnings(mine, test.truth, self.networks.source.labels, parent)

    def _add_latency(self, row: Row, target: formats.Target | None) -> None:
        latency = self.done[LATENCY].result
        if row.name in latency["left_out"]:
            row.why = f"not timed on {latency['device']}: {latency['left_out'][row.name]}"
        elif target and latency["device"] == LOCAL and not target.timed_here:
            row.why = f"not timed on this machine: {target.measured_on}"
        row.device_parity = latency["parity"].get(row.name)
        row.latency = latency["records"].get(row.name)
        row.ratio = latency["ratios"]["parent"].get(row.name)
        row.teacher_ratio = latency["ratios"]["teacher"].get(row.name)

    def _answers(self, check: StepName) -> np.ndarray | None:
        return np.load(self.done[check].folder / ANSWERS) if check in self.done else None

    def _judged(self, check: StepName, judge: Callable[[np.ndarray, np.ndarray, Sequence[str]], T]) -> T | None:
        """What the task makes of a file's answers, None where it has given none."""
        answers, source = self._answers(check), self.networks.source
        return None if answers is None else judge(answers, source.test.truth, source.labels)

    def _confusion(self) -> dict[str, Any] | None:
        """How often each label is taken for each, by the fp32 files, where one can be."""
        judge = self.networks.task.confusion
        teacher, student = (self._judged(checked(role), judge) for role in ("teacher", "student"))
        if teacher is None or student is None:
            return None
        both = {"teacher": teacher.counts, "student": student.counts}
        return {"labels": student.labels, **both, "of": student.of, "note": student.note}

    def _calibration(self, rows: list[Row]) -> dict[str, Any] | None:
        """Of each file that was scored, where the task knows such a thing."""
        scored = {row.name: self.done[checked(row.role, row.target)].result for row in rows if row.score is not None}
        found = {name: result["calibration"] for name, result in scored.items() if result.get("calibration")}
        return {"files": found, "drawn": [name for name in self._compared(rows) if name in found]} if found else None

    def _thresholds(self) -> dict[str, Any]:
        """By role, what decides between two classes, where that was chosen."""
        built = {
            role: self.done[exported(role)].result
            for role in shipped(self.networks.parts)
            if exported(role) in self.done
        }
        labels = self.networks.source.labels
        return {r: {**done["threshold"], "labels": list(labels)} for r, done in built.items() if done.get("threshold")}

    def _compared(self, rows: list[Row]) -> dict[str, Row]:
        """Those that pictures and curves show, by their names: the fp32 files, and of the int8 files the fastest that
        ships, or that failed where none does."""
        scored = [row for row in rows if row.score is not None]

        def place(row: Row) -> tuple[bool, float]:
            return row.status != "measured", (row.latency or {}).get("median_ms") or float("inf")

        int8 = min((row for row in scored if row.target and row.precision == "int8"), key=place, default=None)
        return {row.name: row for row in scored if row.target is None or row is int8}

    def _curves(self, rows: list[Row]) -> dict[str, Any] | None:
        """A curve of each of these, where the task draws one."""
        judge = self.networks.task.curve
        drawn = {name: self._judged(checked(r.role, r.target), judge) for name, r in self._compared(rows).items()}
        found = {name: curve for name, curve in drawn.items() if curve}
        if not found:
            return None
        some = next(iter(found.values()))
        lines = [{"name": name, "points": curve.points} for name, curve in found.items()]
        return {"title": some.title, "x": some.x, "y": some.y, "note": some.note, "lines": lines}

    def _pictures(self, rows: list[Row]) -> dict[str, Any] | None:
        """Test images with the answers of these, where the task shows some; none of private data."""
        if self.networks.recipe.data.public is not None:
            return None
        answers = {name: self._answers(checked(r.role, r.target)) for name, r in self._compared(rows).items()}
        known = {name: found for name, found in answers.items() if found is not None}
        test, labels = self.networks.source.test, self.networks.source.labels
        found = self.networks.task.pictures(test.images, test.truth, known, labels) if known else None
        return asdict(found) if found and found.shown else None

    def _by_label(self, rows: list[Row]) -> list[dict[str, Any]] | None:
        """The score of each label, of the fp32 files and of the int8 files that ship."""
        judge = self.networks.task.by_label
        ships = [row for row in rows if row.target and row.precision == "int8" and row.status == "measured"]
        files = {row.name: self._judged(checked(row.role, row.target), judge) for row in ships}
        teacher, student = (self._judged(checked(role), judge) for role in ("teacher", "student"))
        return student and [
            {
                "label": each["label"],
                "n": each["n"],
                "teacher": teacher[k]["score"] if teacher else None,
                "student": each["score"],
                "files": {name: found[k]["score"] for name, found in files.items() if found},
                **_answered({"teacher": teacher, "student": student, **files}, k),
            }
            for k, each in enumerate(student)
        ]


def of_domains(metric: Metric, source: Source) -> Metric:
    """With the score of each domain among the figures, where the source has several."""
    if not source.domains:
        return metric
    counts = ", ".join(f"{name} {len(places):,}" for name, places in source.domains.items())
    note = (
        f"{capital(metric.name)} on the test images of each domain ({counts}); the score above is that of all of them. "
        "The first one's labels were learnt. Those of the others were looked at for this table and the score alone, "
        "not in the training and not to choose an epoch."
    )
    return replace(metric, parts=tuple(source.domains), parts_title="Domains", parts_note=note)


def _answered(found: Mapping[str, list[dict[str, Any]] | None], k: int) -> dict[str, Any]:
    """Precision and recall of a class, by role or file, where the task has them."""
    each = {name: rows[k] for name, rows in found.items() if rows and "precision" in rows[k]}
    keys = ("precision", "recall", "answered")
    return {"by": {name: {key: row[key] for key in keys} for name, row in each.items()}} if each else {}


def _failed(row: Row, error: Exception, missing: Status) -> Row:
    """The row of what did not come about; ``missing``: its status where only a runtime is not there."""
    row.status = missing if isinstance(error, RuntimeMissingError) else "failed"
    row.why, row.next = reason(error)
    return row
