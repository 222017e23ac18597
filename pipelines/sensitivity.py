"""What int8 costs, layer by layer: of a run's student, by files that the target's own writer makes and its own runner
answers, on validation images. Each file that was tried is kept in the run's folder, as a step is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kdcompress
from kdcompress.bench.machine import machine
from kdcompress.console import say
from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.export import formats
from kdcompress.export.mixed import layers_of
from kdcompress.ours import Ours
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.mixed_search import Search, file_name
from kdcompress.pipelines.parts import named
from kdcompress.pipelines.provenance import RECIPE
from kdcompress.pipelines.runs import RunFolder
from kdcompress.pipelines.sensitivity_table import TABLES, cost, described, keep
from kdcompress.pipelines.steps.names import StepName, artifact_of, exported, trained, weights_of
from kdcompress.pipelines.steps.tried import Judged, TriedStep
from kdcompress.pipelines.tournament import Tournament
from kdcompress.recipe import load_recipe
from kdcompress.report.write import load_report

LAST, EVEN = 8, 16  # points of the curve: each of the last layers, and so many parts of all
EVERY_S = 30.0  # a line of progress where stderr is no terminal

Progress = Callable[[float, str], None]


class Sensitivity:
    """Of the student of the finished run in ``run``, for ``targets``, names or files; none: those int8 ones of its
    recipe that work here. ``images``: of the validation images, the first so many. ``search``: also how many points
    the choice of layers may lose (None: the recipe's), and the minutes that it may take."""

    def __init__(
        self,
        run: Path,
        targets: Sequence[str] = (),
        images: int | None = None,
        search: tuple[float | None, float] | None = None,
        command: str = "",
    ):
        self.run_folder, self.names, self.images, self.command = run, targets, images, command
        self.search = search
        self.compression = student_of(run)

    def check(self) -> list[formats.Target]:
        """The targets. Raises UsageError or RuntimeMissingError for what cannot be measured, before anything is."""
        recipe = self.compression.recipe
        found = formats.chosen(self.names or recipe.export.targets)
        if not self.names:
            found = [target for target in found if target.precision == "int8" and all(formats.availability(target)[:2])]
        if not found:
            hint = "name one: --target x86-vnni; `kdcompress list targets` shows all"
            raise UsageError("The run's recipe has no int8 target that works here.", where=self.run_folder, hint=hint)
        for target in found:
            if target.precision != "int8":
                raise UsageError(
                    "The target has no layer in int8.", where=f"--target {target.name}", got=target.precision,
                    allowed="int8",
                )  # fmt: skip
            formats.writers[target.writer].check()
            formats.runners[target.runtime].check()
            if self.search and not target.timed_here:
                raise RuntimeMissingError(
                    "The target is made for another processor, so that its times here say nothing.",
                    where=f"--search, target {target.name}",
                    allowed=target.measured_on,
                    hint="without --search the table says what its layers lose",
                )
        if self.search:
            Ours(self.run_folder).check(file_name(target.name) for target in found)
        return found

    def run(self, progress: Progress = lambda share, what: None) -> dict[str, Any]:
        """Measures what is not measured yet; the document."""
        targets, compression = self.check(), self.compression
        with compression.folder.locked():
            find_done(compression, exported("student"), self.run_folder)
            found = [self._measured(target, progress) for target in targets]
        return {
            "kdcompress": kdcompress.__version__,
            "name": compression.recipe.name,
            "command": self.command,
            "metric": vars(compression.networks.task.metric),
            "machine": machine(),
            "targets": found,
        }

    def _measured(self, target: formats.Target, progress: Progress) -> dict[str, Any]:
        with self._judged(target) as judged:
            tried = Tried(judged, self.compression.folder, progress)
            table = tried.table()
            ranked = [row["layer"] for row in table]
            curve, parent = tried.curve(ranked), tried.of(frozenset(ranked))
            document: dict[str, Any] = {
                "target": described(target),
                "parent": judged.job.parent.sha256,
                "data": judged.hashes["data"],
                "images": judged.count,
                "validation_images": len(judged.networks.source.validation),
                "fp32": {key: parent[key] for key in ("score", "low", "high", "bytes")},
                "layers": table,
                "curve": curve,
            }
            keep(self.run_folder / TABLES, target, document)
            document["seconds"] = round(tried.seconds, 1)
            if self.search:
                drop, minutes = self.search
                allowed = self.compression.recipe.export.max_drop if drop is None else drop
                bench = self.compression.recipe.bench.model_copy(update={"device": "local", "effort": "rapid"})
                search = Search(
                    judged, self.compression.folder, tried.of, ranked, counts(len(ranked)), allowed, minutes, bench,
                    progress,
                )  # fmt: skip
                document["search"] = search.run(self.run_folder)
            return document

    @contextmanager
    def _judged(self, target: formats.Target) -> Iterator[Judged]:
        compression, networks = self.compression, self.compression.networks
        parent = artifact_of(compression.done, exported("student")).verified()
        weights = weights_of(compression.done)
        net = networks.network("student", weights)
        module = networks.deployable("student", net, parent.input.threshold)
        hashes = {
            "parent": compression.done[exported("student")].hash,
            "weights": compression.done[trained("student")].hash,
            "data": networks.source.hash,
        }
        whole = len(networks.source.validation)
        with TemporaryDirectory() as folder:
            ranges = Path(folder, "ranges.json")
            job = formats.ExportJob(
                module, parent, networks.calibration(weights=weights), Path(folder), "student", ranges
            )
            layers = layers_of(job, target)
            if not layers.names:
                raise UsageError("The target leaves no layer of this network in int8.", where=f"target {target.name}")
            yield Judged(networks, job, target, layers, min(self.images or whole, whole), hashes)


class Tried:
    """The files that are tried for one target."""

    def __init__(self, judged: Judged, folder: RunFolder, progress: Progress):
        self.judged, self.folder, self.progress = judged, folder, progress
        self.begun = self.told = time.monotonic()
        self.done = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def of(self, floating: frozenset[str]) -> dict[str, Any]:
        """What is known of the file with these layers in float."""
        return self.folder.run(TriedStep(self.judged, floating)).result

    def table(self) -> list[dict[str, Any]]:
        """Each layer in int8 alone, those that cost most first, and at the end those that cannot be."""
        layers, rows = self.judged.layers, []
        for name in layers.names:
            found = self.of(frozenset(layers.names) - {name})
            row = {"layer": name, "kind": layers.kinds[name], "macs": layers.macs[name]}
            rows.append({**row, **{key: found.get(key) for key in ("drop", "lost", "snr_db", "why")}})
            self._tell(name)
        return sorted(rows, key=lambda row: (row["why"] is not None, *cost(row)))

    def curve(self, ranked: Sequence[str]) -> list[dict[str, Any]]:
        """The score with more and more layers in int8, from the one that costs least on."""
        points = []
        for count in counts(len(ranked)):
            floating = frozenset(ranked[: len(ranked) - count])
            share = self.judged.layers.share(floating)
            points.append({"int8": count, "share": share["layers"], "macs_share": share["macs"], **self.of(floating)})
            self._tell(f"{count} of {len(ranked)} layers in int8")
        return points

    def _tell(self, what: str) -> None:
        self.done += 1
        count = len(self.judged.layers.names)
        whole, title = count + len(counts(count)), f"{self.judged.target.name}: {what}"
        self.progress(self.done / whole, title)
        if time.monotonic() - self.told > EVERY_S:
            self.told = time.monotonic()
            say(f"{title} ({self.done} of {whole} files)", style="dim")


def counts(layers: int) -> list[int]:
    """How many layers are in int8 at each point of the curve: none, all, and between them each of the last, which cost
    most, and even parts."""
    return sorted({round(layers * part / EVEN) for part in range(EVEN + 1)} | set(range(max(0, layers - LAST), layers)))


def student_of(run: Path) -> Compression:
    """The run in this folder; of one with a search for its student, with the one that won. Raises UsageError."""
    if not (run / RECIPE).is_file():
        what = "This is not the folder of a run." if run.exists() else "There is no such folder."
        raise UsageError(what, where=run, hint="`kdcompress run RECIPE -o FOLDER` makes one")
    recipe = load_recipe(run / RECIPE)
    if not recipe.search.candidates:
        return Compression(recipe, run)
    tournament = Tournament(recipe, run)
    won = (load_report(run).get("search") or {}).get("winner")
    entry = next((each for each in tournament.entries if named(each.student) == won), None)
    if entry is None:
        raise UsageError("The run's search has no winner yet.", where=run, hint="`kdcompress run` goes on with it")
    return tournament.compression(entry)


def find_done(compression: Compression, name: StepName, run: Path) -> None:
    """What that step and those before it made becomes known to the run. Raises UsageError where one is not done."""
    step = next(step for step in compression.steps() if step.name == name)
    for earlier in step.after:
        if earlier not in compression.done:
            find_done(compression, earlier, run)
    finished = compression.folder.finished(step, compression.done)
    if finished is None:
        raise UsageError(
            "The run has not made its student's fp32 file, or not with these data and packages.",
            where=run,
            got=f"step {name} is to do",
            hint=f"`kdcompress run {run / RECIPE} -o {run}` does it",
        )
    compression.done[name] = finished
