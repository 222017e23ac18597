"""Methods x seeds on one recipe: what does each method give, and is it more than noise?

Every training is a step of one run folder, so an interrupted sweep goes on where it was, the teacher is trained once,
and a method or a seed that is added later is all that is trained then. Best weights are chosen by validation; the test
split is looked at when a training is over.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress import console
from kdcompress.artifact import sha256
from kdcompress.console import say
from kdcompress.data.source import Source
from kdcompress.errors import KDCompressError, UsageError, cut, ended, unknown_name
from kdcompress.methods import methods
from kdcompress.optional import require
from kdcompress.pipelines.checks import Tried
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Part, Role
from kdcompress.pipelines.provenance import provenance
from kdcompress.pipelines.runs import Done, Inputs, Key, Step
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.steps.check import ANSWERS
from kdcompress.pipelines.steps.names import trained, weights_of
from kdcompress.recipe import Recipe, parse_methods
from kdcompress.task import Outputs
from kdcompress.tasks import tasks
from kdcompress.training.evaluation import predict

BASELINE = "none"
RECORDED = (
    *("model", "parameters", "auxiliary_parameters", "macs", "best", "last", "images_seen", "teacher_passes"),
    *("seconds", "device", "precision", "history"),
)
# Student's t: the 97.5 % point for 1, 2, ... degrees of freedom.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


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
        fit = [name for name in methods if task.takes(methods[name].needs.one_label)]
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
        self.sources, self.tried = Sources(recipe.data), Tried()  # the same for all
        self.trials = [(label, seed) for seed in self.seeds for label in chosen]

    def compression(self, label: str, seed: int) -> Compression:
        changed: dict[str, Any] = {"method": self.chosen[label], "seed": seed}
        if not any(methods[name].needs.several for name in self.chosen[label]):
            changed["co_teachers"] = ()
            changed["teacher"] = self.recipe.teacher and self.recipe.teacher.model_copy(update={"ensemble": 1})
        return Compression(self.recipe.model_copy(update=changed), self.folder, self.command, self.sources, self.tried)

    @property
    def source(self) -> Source:
        return self.sources.main

    def check(self) -> None:
        """Raises UsageError with what every method's check finds."""
        problems: dict[str, list[str]] = {}
        for label in self.chosen:
            try:
                self.compression(label, self.seeds[0]).check(ships=False)
            except UsageError as error:
                problems.setdefault(str(error), []).append(label)
        if problems:
            listed = "\n".join(f"- {', '.join(labels)}: {text}" for text, labels in problems.items())
            raise UsageError(f"Not every method can be compared:\n{listed}", hint="leave them out with --methods")

    def states(self) -> dict[str, str]:
        """ "done" or "to do" of each training, with nothing run or written."""
        return {
            f"{label} seed {seed}": self.compression(label, seed).states()[trained("student")]
            for label, seed in self.trials
        }

    def run(self, workers: int = 1, scheduler: str | None = None) -> dict[str, Any]:
        """Train what is not trained yet and return the document. A training that fails is reported as such.

        Raises UsageError, before anything is trained, where the scheduler cannot be reached.
        """
        trials: list[dict[str, Any]] = []
        with executor(workers, scheduler) as pool:
            teacher = self._train_teachers()
            for (label, seed), facts in self._outcomes(pool, max(1, (os.cpu_count() or 1) // workers)):
                trials.append({"label": label, "seed": seed, **facts})
                shown = facts["error"] if "error" in facts else f"{facts['test_best']:.2f} % of the test images"
                say(f"[{len(trials)}/{len(self.trials)}] {label} seed {seed}: {shown}")
        trials.sort(key=lambda t: self.trials.index((t["label"], t["seed"])))
        return {
            **provenance(self.recipe, self.command),
            "metric": vars(tasks[self.recipe.task].metric),
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
        return score(first, "teacher") if teachers else None

    def _outcomes(self, pool: Executor | None, threads: int) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
        """Each training as it ends: in the pool, or here where there is none."""
        if pool is None:
            for trial in self.trials:
                yield trial, attempt(partial(train_trial, self.compression(*trial), None))
            return
        jobs = {pool.submit(train_trial, self.compression(*trial), threads): trial for trial in self.trials}
        workers = active_children()
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
    teacher = _score(compression, "teacher", None) if role != "teacher" and trained("teacher") in done else None
    scored, recorded = _score(compression, role, teacher), done[trained(role)].result
    return {**{key: recorded.get(key) for key in RECORDED}, **scored.result}


def _score(compression: Compression, role: Role, teacher: Done | None) -> Done:
    return compression.folder.run(ScoreStep(compression.networks, role, teacher), compression.done)


@dataclass(frozen=True)
class ScoreStep(Step):
    """The weights of a finished training, looked at on the test split."""

    networks: Networks
    role: Role
    teacher: Done | None  # its score

    @property
    def name(self) -> str:
        return f"score-{self.role}"

    def key(self, inputs: Inputs) -> Key:
        hashes = {"weights": inputs[trained(self.role)].hash, "data": self.networks.source.hash}
        if self.teacher:
            hashes["teacher"] = self.teacher.hash
        return Key({}, hashes, ("torch",))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        training, task, truth = inputs[trained(self.role)], self.networks.task, self.networks.source.test.truth
        kept = self._outputs(inputs, "weights")
        other = "best" if training.result.get("selected") == "last" else "last"
        both = [training.folder / f"{file}.safetensors" for file in ("weights", other)]
        same = not both[1].exists() or sha256(both[0]) == sha256(both[1])
        found = {"best": kept, "last": kept, other: kept if same else self._outputs(inputs, other)}
        np.save(folder / ANSWERS, task.answers(kept))
        scores = {kind: task.score(found[kind], truth) for kind in ("best", "last")}
        facts: dict[str, Any] = {f"test_{kind}": score.value for kind, score in scores.items()}
        facts["calibration_error"] = scores["best"].details.get("calibration error")
        if self.teacher:
            facts["agreement"] = task.agreement(task.answers(kept), np.load(self.teacher.folder / ANSWERS))
        return facts

    def _outputs(self, inputs: Inputs, file: str) -> Outputs:
        """Of the test images, as those of a file."""
        networks, role = self.networks, self.role
        member = networks.member(role, networks.network(role, weights_of(inputs), file))
        member.tap(networks.example(), frozenset())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return (predict(member.to(device), networks.source.test, device).cpu().numpy(),)


def summary(
    trials: Sequence[dict[str, Any]], labels: Sequence[str], published: dict[str, float]
) -> list[dict[str, Any]]:
    """A row a method. ``gain`` is the mean difference to the baseline of the same seed (the same initial weights and
    batches), with its 95 % interval by Student's t; ``step`` the median time a step relative to kd's."""
    good = [t for t in trials if "error" not in t]
    of = {label: {t["seed"]: t for t in good if t["label"] == label} for label in labels}
    baseline = of.get(BASELINE, {})
    paces = {label: [t["seconds"] / t["images_seen"] for t in found.values()] for label, found in of.items()}
    reference = next((statistics.median(paces[name]) for name in ("kd", BASELINE) if paces.get(name)), None)
    rows = []
    for label in labels:
        found = list(of[label].values())
        row: dict[str, Any] = {
            "label": label,
            "n": len(found),
            "failed": sum(t["label"] == label for t in trials) - len(found),
        }
        for key in ("test_best", "test_last", "calibration_error", "agreement"):
            values = [t[key] for t in found if t.get(key) is not None]
            row[key] = statistics.mean(values) if values else None
            row[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        gains = [t["test_best"] - baseline[s]["test_best"] for s, t in of[label].items() if s in baseline]
        row |= interval(gains) if label != BASELINE else {}
        for key in ("images_seen", "teacher_passes", "auxiliary_parameters"):
            row[key] = found[0][key] if found else None
        row["step"] = statistics.median(paces[label]) / reference if found and reference else None
        row["published"] = published.get(label)
        rows.append(row)
    return rows


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval of paired differences; no interval of fewer than two."""
    if not differences:
        return {}
    mean, n = statistics.mean(differences), len(differences)
    if n < 2:
        return {"gain": mean}
    t = T975[n - 2] if n - 2 < len(T975) else 1.96 + 2.4 / (n - 1)
    half = t * statistics.stdev(differences) / n**0.5
    return {"gain": mean, "gain_low": mean - half, "gain_high": mean + half}


def attempt(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return job()
    except KDCompressError as error:
        return {"error": error.what}


def elsewhere(job: Callable[[], dict[str, Any]], workers: Sequence[BaseProcess]) -> dict[str, Any]:
    """As ``attempt``, of a training in another process, which may have died."""
    try:
        return attempt(job)
    except BrokenExecutor:
        for worker in workers:
            worker.join(10)
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        codes.sort(key=lambda code: code == -signal.SIGTERM)  # with which the others are ended then
        return {"error": f"A process that trains ended with {ended(codes[0]) if codes else 'no word'}."}
    except Exception as error:  # Dask's own, where a worker died or cannot be reached, have no common type
        return {"error": cut(f"{type(error).__name__}: {error}")}


def end_with_parent() -> None:
    """Of a worker: do not go on alone when the process that asked was killed. What is being trained is on the disk."""
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


@contextmanager
def executor(workers: int, scheduler: str | None) -> Iterator[Executor | None]:
    """Where trainings run: on the workers of a Dask scheduler, in ``workers`` processes, or (None) in this one."""
    if scheduler:
        distributed = require("distributed", "cluster", "A sweep over several machines")
        try:
            client = distributed.Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise UsageError(
                "The Dask scheduler cannot be reached.",
                where=scheduler,
                got=error,
                hint="`dask scheduler` starts one, `dask worker ADDRESS` adds a machine that sees the same folder",
            ) from error
        with client:
            yield client.get_executor(pure=False)
    elif workers == 1:
        yield None
    else:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
