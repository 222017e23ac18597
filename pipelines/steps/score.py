"""The weights of a finished training, looked at on the test split: for a comparison of methods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import sha256
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.runs import Done, Inputs, Key, Step
from kdcompress.pipelines.steps.answers import outputs_to, threshold
from kdcompress.pipelines.steps.check import ANSWERS
from kdcompress.pipelines.steps.names import trained, weights_of
from kdcompress.task import Outputs, Task


@dataclass(frozen=True)
class ScoreStep(Step):
    networks: Networks
    role: Role
    teacher: Done | None  # its score

    @property
    def name(self) -> str:
        return f"score-{self.role}"

    def key(self, inputs: Inputs) -> Key:
        hashes = {"weights": inputs[trained(self.role)].hash, "data": self.networks.source_of(self.role).hash}
        if self.teacher:
            hashes["teacher"] = self.teacher.hash
        decides = {"threshold": "validation"} if self.networks.recipe.threshold == "validation" else {}
        return Key({**self.networks.figure_key, **decides}, hashes, ("torch",))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        training, task, truth = inputs[trained(self.role)], self.networks.task, self.networks.source.test.truth
        judge, kept = self._judged(inputs, "weights")
        other = "best" if training.result.get("selected") == "last" else "last"
        both = [training.folder / f"{file}.safetensors" for file in ("weights", other)]
        same = not both[1].exists() or sha256(both[0]) == sha256(both[1])
        found = dict.fromkeys(("best", "last"), judge.score(kept, truth))
        if not same:
            judge_of_other, outputs = self._judged(inputs, other)
            found[other] = judge_of_other.score(outputs, truth)
        answers = judge.answers(kept)
        np.save(folder / ANSWERS, answers)
        facts: dict[str, Any] = {f"test_{kind}": score for kind, score in found.items()}
        facts["calibration_error"] = task.details(kept, truth).get("calibration error")
        if self.teacher:
            facts["agreement"] = task.agreement(answers, np.load(self.teacher.folder / ANSWERS))
        return facts

    def _judged(self, inputs: Inputs, file: str) -> tuple[Task, Outputs]:
        """The outputs to the test images, as those of a file, and what judges them."""
        networks, role = self.networks, self.role
        net = networks.network(role, weights_of(inputs), file)
        task = networks.task
        if networks.recipe.threshold == "validation":
            task = task.judging(threshold=threshold(networks, role, net).share)
        return task, outputs_to(networks, role, net, networks.source_of(role).test)
