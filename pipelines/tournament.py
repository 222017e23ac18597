"""The candidates of a plan against each other: successive halving (Jamieson and Talwalkar, AISTATS 2016).

All are trained shortly, each with a whole schedule; the best by validation images go on to a training ``reduction``
times as long, until one is left, which the run then trains in full. A plain bracket over the run's own steps, not
Optuna's pruners: those stop trainings of one long schedule by what came before them, so that the first one is never
stopped and the outcome hangs on their order, while the candidates here are few and known, and steps resume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcompress.artifact import Artifact
from kdcompress.console import say
from kdcompress.data.splits import Source
from kdcompress.distributed import launched
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import formats
from kdcompress.pipelines.checks import Tried
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.parts import named, parts_of
from kdcompress.pipelines.runs import Inputs, Key, RunFolder, Step
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.steps.names import exported, trained
from kdcompress.pipelines.timed import time_files, timed
from kdcompress.recipe import Bench, Candidate, Recipe
from kdcompress.tasks import tasks

AS_IT_FALLS: dict[str, Any] = {"qat": None, "max_drop": 100.0}  # the first int8 file: its latency is all that is asked


@dataclass(frozen=True)
class TimeTrained(Step):
    """The latency of the trained candidates, in turns."""

    sources: Sources
    bench: Bench
    artifacts: Mapping[str, Artifact]
    name = "search-latency"

    def key(self, inputs: Inputs) -> Key:
        return Key(self.bench.model_dump(), {label: artifact.sha256 for label, artifact in self.artifacts.items()})

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        session = time_files(self.artifacts, self.sources.images, self.bench)
        return {name: record.to_json() for name, record in session.records.items()}


class Tournament:
    """Of the first ``search.candidates`` of the recipe's budgets, in the folder of its run."""

    def __init__(self, recipe: Recipe, folder: Path, command: str = ""):
        self.recipe, self.folder, self.command = recipe, folder, command
        self.sources, self.tried = Sources(recipe.data, recipe.task, recipe.lifelong), Tried()  # the same for all
        self.entries = list(recipe.budgets.candidates[: recipe.search.candidates])
        # rounds until one is left: those that go on are rounded up
        self.rounds, left = 0, len(self.entries)
        while left > 1:
            self.rounds, left = self.rounds + 1, math.ceil(left / recipe.search.reduction)

    @property
    def source(self) -> Source:
        return self.sources.main

    def images(self, number: int) -> int:
        """Seen by each training of a round, from 0 up."""
        train = self.recipe.train
        assert train is not None  # a recipe with a search has one
        full = train.images or round(train.epochs * len(self.sources.of(parts_of(self.recipe)["student"]).train))
        return max(train.batch_size, full // self.recipe.search.reduction ** (self.rounds - number))

    def compression(self, entry: Candidate, number: int | None = None) -> Compression:
        """A run with that student; of a round, with a shorter training of it alone."""
        changed: dict[str, Any] = {"student": entry.student}
        if number is not None:
            changed["track"] = ()
            targets = self.recipe.budgets.target
            changed["export"] = self.recipe.export.model_copy(update={**AS_IT_FALLS, "targets": targets})
        recipe = self.recipe.model_copy(update=changed)
        parts = parts_of(recipe)
        if number is not None:
            part = parts["student"]
            assert part.train is not None
            short = part.train.untuned().model_copy(update={"images": self.images(number)})
            parts["student"] = replace(part, train=short)
        return Compression(recipe, self.folder, self.command, self.sources, self.tried, parts)

    def check(self) -> None:
        """Raises UsageError with what the check of each candidate finds."""
        if launched() > 1:
            raise UsageError(
                "A search runs in one process only.",
                where="search",
                hint="start one, then train its winner in several: search=0",
            )
        problems: dict[str, list[str]] = {}
        for entry in self.entries:
            try:
                self.compression(entry).check()
            except UsageError as error:
                problems.setdefault(str(error), []).append(named(entry.student))
        if problems:
            listed = "\n".join(f"- {', '.join(names)}: {text}" for text, names in problems.items())
            raise UsageError(f"Not every candidate of the search can be trained:\n{listed}", where="budgets.candidates")

    def states(self) -> list[tuple[str, str]]:
        """(training, "done" or "to do") of the first round, whose outcome decides the others."""
        return [
            (f"round 1: {named(entry.student)}", self.compression(entry, 0).states()[trained("student")])
            for entry in self.entries
        ]

    def run(self) -> tuple[Candidate, dict[str, Any]]:
        """The winner, and the document of how it won: scores of the validation images, ``noise`` the
        points by which two equal ones differ once in 20 times, by the number of those images. Trains what is not
        trained yet; the folder must be held."""
        left, rounds, last = self.entries, [], {}
        for number in range(self.rounds):
            images = self.images(number)
            say(f"search, round {number + 1} of {self.rounds}: {len(left)} candidates, {images:,} images each")
            found = []
            for entry in left:
                made = self.compression(entry, number)
                facts: dict[str, Any] = {"name": named(entry.student)}
                try:
                    made.train()
                except KDCompressError as error:  # one that diverges is out
                    facts["why"] = error.what
                else:
                    last[entry.student.model_dump_json()] = made
                    result = made.done[trained("student")].result
                    facts |= {"score": result["best"]["score"], "seconds": result["seconds"]}
                say(f"  {facts['name']}: {facts.get('why') or format(facts['score'], '.2f') + ' %'}")
                found.append((facts, entry))
            ranked = sorted((each for each in found if "score" in each[0]), key=lambda each: -each[0]["score"])
            if not ranked:
                raise KDCompressError("No candidate of the search could be trained.", got=found[0][0]["why"])
            left = [entry for _, entry in ranked[: math.ceil(len(left) / self.recipe.search.reduction)]]
            judge = tasks[self.recipe.task].judging(self.recipe.metric)
            noise = judge.noise(ranked[0][0]["score"], len(self.source.validation))
            rounds.append({"images": images, "noise": noise, "entries": [facts for facts, _ in found]})
        winners = [last[key] for entry in self.entries if (key := entry.student.model_dump_json()) in last]
        document = {"rounds": rounds, "winner": named(left[0].student), "predictions": self._predictions(winners)}
        return left[0], document

    def _predictions(self, made: list[Compression]) -> list[dict[str, Any]]:
        """Of each trained candidate: the plan's latency of it untrained, and that of what is built from its last
        training, timed in turns."""
        targets = formats.chosen(self.recipe.budgets.target)
        there = timed(self.recipe.bench.device, targets)
        predicted, artifacts = {}, {}
        for compression in made:
            planned = self.recipe.budgets.planned(compression.recipe.student)
            for target in there:
                if planned is None or target.name not in planned.latency_ms:
                    continue
                compression.make(exported("student", target.name))
                label = f"{named(compression.recipe.student)} {target.name}"
                predicted[label] = planned.latency_ms[target.name]
                artifacts[label] = compression.artifact(exported("student", target.name))
        if not artifacts:
            return []
        done = RunFolder(self.folder).run(TimeTrained(self.sources, self.recipe.bench, artifacts))
        return [
            {
                "name": label,
                "predicted_ms": predicted[label],
                "measured_ms": ms,
                "error_percent": 100 * (predicted[label] / ms - 1),
            }
            for label, record in done.result.items()
            if (ms := record["median_ms"])
        ]
