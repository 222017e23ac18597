"""Trials of settings, by Optuna: its sampler (TPE, Bergstra et al., NeurIPS 2011) proposes them, its median rule stops
those that fall behind, its journal remembers them.

What a trial tries is a function of the seed, its number and the trials before it: each value is drawn by a sampler with
a seed of its own, so that a search that is killed at any moment goes on as it would have.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcompress.artifact import content_hash
from kdcompress.optional import require
from kdcompress.pipelines.tuned import Setting

EXTRA, WHY = "tune", "A search for settings (`tune`)"
STUDY = "tune"
STEPS = "steps"
DIGITS = 3  # of a value that is tried: a recipe with it can be read
AT_RANDOM = 4  # trials at most, the recipe's own among them, before the sampler learns from those that were made
BEFORE_STOPPING = 2  # trials that have to be complete


class Trials:
    """``count`` of them, kept in a ``journal``. The first has the settings as they are given."""

    def __init__(self, journal: Path, settings: Sequence[Setting], count: int, seed: int):
        self.optuna: Any = require("optuna", EXTRA, WHY)
        self.settings, self.count, self.seed = settings, count, seed
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.study = self.optuna.create_study(
            storage=self.optuna.storages.JournalStorage(
                self.optuna.storages.journal.JournalFileBackend(str(journal)),
            ),
            study_name=STUDY,
            direction="maximize",
            load_if_exists=True,
            pruner=self.optuna.pruners.MedianPruner(n_startup_trials=BEFORE_STOPPING, n_min_trials=BEFORE_STOPPING),
        )
        if not self.made():
            self.study.enqueue_trial({each.name: each.given for each in settings})

    def made(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False)

    def next(self) -> Any:
        """Optuna's trial that was interrupted, or a new one; None where all are done."""
        made, states = self.made(), self.optuna.trial.TrialState
        for frozen in made:
            if frozen.state == states.RUNNING:
                return self.optuna.trial.Trial(self.study, frozen._trial_id)
        return self.study.ask() if sum(each.state.is_finished() for each in made) < self.count else None

    def values(self, trial: Any) -> dict[str, float]:
        """What a trial tries, by the settings' names."""
        drawn = {}
        for each in self.settings:
            seed = int(content_hash([self.seed, trial.number, each.name])[:8], 16)
            first = min(AT_RANDOM, max(2, self.count // 2))
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=first)
            drawn[each.name] = trial.suggest_float(each.name, each.low, each.high, log=each.log)
        return self._as_tried(trial.number, drawn)

    def length(self, steps: int) -> None:
        """Of each trial."""
        if STEPS not in self.study.user_attrs:
            self.study.set_user_attr(STEPS, steps)

    def falls_behind(self, trial: Any, score: float, step: int) -> bool:
        """Whether a trial is worse than half of the others were after so many steps."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trial that was interrupted says it again
            trial.report(score, step)
        return bool(trial.should_prune())

    def complete(self, trial: Any, score: float) -> None:
        self.study.tell(trial, score)

    def stop(self, trial: Any) -> None:
        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)

    def fail(self, trial: Any, why: str) -> None:
        trial.set_user_attr("why", why)
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)

    def records(self) -> list[dict[str, Any]]:
        """Of each trial: its values, its "state" ("complete", "stopped" or "failed"), its "score" (the last one of a
        trial that was stopped, when "percent" of it were done) and "why" it failed."""
        words = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}
        found = []
        for frozen in self.made():
            state = words[frozen.state.name]
            stopped = state == "stopped"
            score = frozen.intermediate_values[frozen.last_step] if stopped else frozen.value
            found.append(
                {
                    "values": self._as_tried(frozen.number, frozen.params),
                    "state": state,
                    "score": score,
                    "percent": round(100 * frozen.last_step / self.study.user_attrs[STEPS]) if stopped else None,
                    "why": frozen.user_attrs.get("why"),
                }
            )
        return found

    def _as_tried(self, number: int, drawn: dict[str, float]) -> dict[str, float]:
        if number == 0:
            return {each.name: each.given for each in self.settings}
        return {
            each.name: min(max(float(f"{drawn[each.name]:.{DIGITS}g}"), each.low), each.high) for each in self.settings
        }
