"""The settings of a training, searched on short ones that validation images judge."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcompress.console import TrainingProgress, say
from kdcompress.errors import KDCompressError
from kdcompress.optional import require_installed
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.names import StepName, pretrained, trained, tuned, weights_of
from kdcompress.pipelines.steps.train import TrainStep
from kdcompress.pipelines.trials import EXTRA, WHY, Trials
from kdcompress.pipelines.tuned import settings, with_values
from kdcompress.recipe import Train
from kdcompress.training.checkpoint import load_checkpoint
from kdcompress.training.engine import CHECKPOINT, train

JOURNAL = "optuna.log"
LOOKS = 4  # at a trial: it may be stopped after a quarter, a half and three quarters


class Stopped(Exception):
    """A trial has fallen behind."""


@dataclass(frozen=True)
class TuneStep(Step):
    networks: Networks
    role: Role

    @property
    def name(self) -> StepName:
        return tuned(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        part = self.networks.parts[self.role]
        return (*map(trained, part.after()), *([pretrained(self.role)] if part.pretrain else []))

    @property
    def resumes(self) -> bool:
        return True

    @property
    def given(self) -> Train:
        """The full training, as the recipe has it."""
        found = self.networks.parts[self.role].train
        assert found is not None
        return found

    def check(self) -> None:
        require_installed("optuna", EXTRA, WHY)

    def key(self, inputs: Inputs) -> Key:
        whole = TrainStep(self.networks, self.role).settled({}).key(inputs)
        asked = self.given.tune.model_dump(mode="json")
        return Key({**whole.params, "tune": asked}, whole.inputs, (*whole.packages, "optuna"))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """``JOURNAL``, which Optuna's own programs read. ``winner`` has what is not as the recipe has it."""
        part, tune = self.networks.parts[self.role], self.given.tune
        searched = settings(part)
        trials = Trials(folder / JOURNAL, searched, tune.trials, part.seed)
        while trial := trials.next():
            self._attempt(trials, trial, folder / f"trial-{trial.number}", inputs)
        for left in folder.glob("trial-*"):  # of one that was killed when it had just ended
            shutil.rmtree(left)
        records = trials.records()
        complete = [record["score"] for record in records if record["state"] == "complete"]
        if not complete:
            raise KDCompressError(f"No trial of the {self.role}'s settings came to its end.", got=records[0]["why"])
        best = next(
            i for i, each in enumerate(records) if each["state"] == "complete" and each["score"] == max(complete)
        )
        noise = self.networks.task.noise(max(complete), len(self.networks.source.validation))
        given = {each.name: each.given for each in searched}
        winner = {name: value for name, value in records[best]["values"].items() if value != given[name]}
        return {
            "role": self.role,
            "share": tune.share,
            "trials": records,
            "best": best,
            "winner": winner,
            "noise": noise,
        }

    def _attempt(self, trials: Trials, trial: Any, folder: Path, inputs: Inputs) -> None:
        """A short training. One that falls behind is stopped, and one that diverges is out."""
        networks, role, values = self.networks, self.role, trials.values(trial)
        part = with_values(networks.parts[role], values)
        assert part.train is not None
        short = shortened(part.train, self.given.tune.share)
        networks, title = networks.with_part(role, part), f"tune {role}: trial {trial.number + 1} of {trials.count}"
        folder.mkdir(exist_ok=True)
        with TrainingProgress(title) as progress:

            def told(step: int, steps: int, facts: dict[str, float]) -> None:
                progress(step, steps, facts)
                trials.length(steps)
                score = facts.get("validation_score")
                if score is not None and step < steps and trials.falls_behind(trial, score, step):
                    raise Stopped

            try:
                for row in history(folder):  # of what was done before an interruption
                    if trials.falls_behind(trial, row["validation_score"], row["step"]):
                        raise Stopped
                distillation, source = networks.distillation(role, weights_of(inputs)), networks.trained_on(role)
                augment = networks.recipe.data.augment
                result = train(distillation, source, short, augment, part.seed, folder, told, looks=LOOKS)
            except Stopped:
                trials.stop(trial)
                outcome = "stopped"
            except KDCompressError as error:
                trials.fail(trial, error.what)
                outcome = error.what
            else:
                score = (result.best if short.select == "best" else result.last)["score"]
                trials.complete(trial, score)
                outcome = f"{score:.2f} %"
        say(f"{title}: {in_words(values)}: {outcome}")
        shutil.rmtree(folder)


def history(folder: Path) -> list[dict[str, Any]]:
    """Of a training that was interrupted, up to its checkpoint."""
    saved = load_checkpoint(folder / CHECKPOINT)
    return saved["result"]["history"] if saved else []


def shortened(train: Train, share: float) -> Train:
    if train.images:
        return train.model_copy(update={"images": max(1, round(train.images * share))})
    return train.model_copy(update={"epochs": train.epochs * share})


def in_words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
