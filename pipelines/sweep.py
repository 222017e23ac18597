"""Methods x seeds on one recipe: what does each method give, and is it more than noise?

Every training is a step of one run folder, so an interrupted sweep goes on where it was, the teacher is trained once,
and a method or a seed that is added later is all that is trained then. Best weights are chosen by validation; the test
split is looked at when a training is over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch

from kdcompress import console
from kdcompress.console import say
from kdcompress.data.splits import Source
from kdcompress.errors import UsageError, unknown_name
from kdcompress.methods import methods
from kdcompress.pipelines.checks import Tried
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.gains import BASELINE, summary
from kdcompress.pipelines.parts import Part, Role, answers_of
from kdcompress.pipelines.provenance import provenance
from kdcompress.pipelines.runs import Done
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.steps.names import trained
from kdcompress.pipelines.steps.score import ScoreStep
from kdcompress.pipelines.workers import attempt, elsewhere, executor
from kdcompress.recipe import Recipe, parse_methods
from kdcompress.tasks import tasks

RECORDED = (
    *("model", "parameters", "auxiliary_parameters", "macs", "best", "last", "images_seen", "teacher_passes"),
    *("seconds", "device", "precision", "history"),
)


def choose(recipe: Recipe, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """label -> method of ``labels``: the recipe's own entries, or a method's name (with the recipe's options where it
    has some, else its defaults); "all" is every method there is. With no labels: the recipe's entries, else its method
    and the baseline. Raises UsageError for an unknown label."""
    own = dict(recipe.compare.methods)
    for name, options in recipe.method.items():
        own.setdefault(name, {name: options})
    wanted = list(labels) or list(recipe.compare.methods) or list(dict.fromkeys([BASELINE, *recipe.method]))
    if "all" in wanted:
        task = tasks[recipe.task]
        fit = [name for name in methods if task.takes(methods[name].needs)]
        wanted = list(dict.fromkeys([*own, *fit]))
    for label in wanted:
        if label not in own and label not in methods:
            raise unknown_name("method", label, list(dict.fromkeys([*own, *methods])), where="--methods")
    return {label: own.get(label) or parse_methods(label) for label in wanted}


class Sweep:
    """``seeds`` trainings of each of ``chosen`` in ``folder``."""

    def __init__(self, recipe: Recipe, folder: Path, chosen: dict[str, dict[str, Any]], seeds: int, command: str = ""):
        self.recipe, self.folder, self.chosen, self.command = recipe, folder.resolve(), chosen, command
        self.seeds = range(recipe.seed, recipe.seed + seeds)
        self.sources, self.tried = Sources(recipe.data, recipe.task, recipe.lifelong), Tried()  # the same for all
        self.trials = [(label, seed) for seed in self.seeds for label in chosen]

    def compression(self, label: str, seed: int) -> Compression:
        changed: dict[str, Any] = {"method": self.chosen[label], "seed": seed}
        if not any(methods[name].needs.several for name in self.chosen[label]):
            changed["co_teachers"] = ()
            changed["teacher"] = self.recipe.teacher and self.recipe.teacher.model_copy(update={"ensemble": 1})
        recipe, title = self.recipe.model_copy(update=changed), re.sub(r"[^\w.-]+", "-", f"{label}-seed-{seed}")
        return Compression(recipe, self.folder, self.command, self.sources, self.tried, title=title)

    @property
    def source(self) -> Source:
        return self.sources.main

    def check(self) -> None:
        """Raises UsageError with what every method's check finds."""
        trains = {"train": self.recipe.train, "teacher.train": self.recipe.teacher and self.recipe.teacher.train}
        if tuned := [where for where, train in trains.items() if train and train.tune.trials]:
            raise UsageError(
                "A comparison searches no settings.",
                where=f"{tuned[0]}.tune",
                hint=" ".join(f"{where}.tune=0" for where in tuned) + ", or compare with the recipe that a run tuned",
            )
        problems: dict[str, list[str]] = {}
        for label in self.chosen:
            try:
                self.compression(label, self.seeds[0]).check(ships=False)
            except UsageError as error:
                problems.setdefault(str(error), []).append(label)
        if problems:
            listed = "\n".join(f"- {', '.join(labels)}: {text}" for text, labels in problems.items())
            raise UsageError(f"Not every method can be compared:\n{listed}", hint="leave them out with --methods")

    def states(self) -> list[tuple[str, str]]:
        """(training, "done" or "to do"), with nothing run or written."""
        return [
            (f"{label} seed {seed}", self.compression(label, seed).states()[trained("student")])
            for label, seed in self.trials
        ]

    def run(self, workers: int = 1, scheduler: str | None = None) -> dict[str, Any]:
        """Train what is not trained yet and return the document. A training that fails is reported as such.

        Raises UsageError, before anything is trained, where the scheduler cannot be reached.
        """
        trials: list[dict[str, Any]] = []
        metric = tasks[self.recipe.task].judging(self.recipe.metric).metric
        with executor(workers, scheduler) as pool:
            teacher = self._train_teachers()
            for (label, seed), facts in self._outcomes(pool, max(1, (os.cpu_count() or 1) // workers)):
                trials.append({"label": label, "seed": seed, **facts})
                told = facts.get("error") or f"test {metric.name} {facts['test_best']:.2f} {metric.unit}"
                say(f"[{len(trials)}/{len(self.trials)}] {label} seed {seed}: {told}")
        trials.sort(key=lambda t: self.trials.index((t["label"], t["seed"])))
        return {
            **provenance(self.recipe, self.command),
            "metric": vars(metric),
            "methods": self.chosen,
            "data": {"name": self.source.name, "hash": self.source.hash, "train": len(self.source.train)},
            "teacher": teacher,
            "trials": trials,
            "summary": summary(trials, list(self.chosen), self.recipe.compare.published),
        }

    def _train_teachers(self) -> dict[str, Any] | None:
        """Those of every method, each once; returns how well the first method's teacher answers."""
        found: list[tuple[dict[Role, Part], Compression]] = []
        for label in self.chosen:
            compression = self.compression(label, self.seeds[0])
            parts = compression.networks.parts
            teachers = {role: part for role, part in parts.items() if role.startswith("teacher")}
            if all(teachers != known for known, _ in found):
                compression.train(roles=teachers)
                found.append((teachers, compression))
        teachers, first = found[0]
        known = teachers and not answers_of(first.networks.parts["teacher"].network)
        return score(first, "teacher") if known else None

    def _outcomes(self, pool: Executor | None, threads: int) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
        """Each training as it ends: in the pool, or here where there is none."""
        if pool is None:
            for trial in self.trials:
                yield trial, attempt(partial(train_trial, self.compression(*trial), None))
            return
        workers = active_children()  # before one can have died: who has is not among them
        jobs = {pool.submit(train_trial, self.compression(*trial), threads): trial for trial in self.trials}
        for job in as_completed(jobs):
            yield jobs[job], elsewhere(job.result, workers)


def train_trial(compression: Compression, threads: int | None) -> dict[str, Any]:
    """One training and its score. Accuracies, agreement and calibration error in per cent."""
    if threads:
        torch.set_num_threads(threads)
        console.err.quiet = True  # several at once: the parent tells how they went
    compression.train()
    return score(compression, "student")


def score(compression: Compression, role: Role) -> dict[str, Any]:
    """What a finished training gave."""
    done = compression.done
    parts = compression.networks.parts
    known = trained("teacher") in done and not answers_of(parts["teacher"].network)  # else nothing of test images
    teacher = _score(compression, "teacher", None) if role != "teacher" and known else None
    scored, recorded = _score(compression, role, teacher), done[trained(role)].result
    return {**{key: recorded.get(key) for key in RECORDED}, **scored.result}


def _score(compression: Compression, role: Role, teacher: Done | None) -> Done:
    return compression.folder.run(ScoreStep(compression.networks, role, teacher), compression.done)
