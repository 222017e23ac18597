"""The weights of a finished training, looked at on the test split: for a comparison of methods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress.artifact import sha256
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.runs import Done, Inputs, Key, Step
from kdcompress.pipelines.steps.check import ANSWERS
from kdcompress.pipelines.steps.names import trained, weights_of
from kdcompress.task import Outputs
from kdcompress.training.evaluation import predict


@dataclass(frozen=True)
class ScoreStep(Step):
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
        facts: dict[str, Any] = {f"test_{kind}": task.score(found[kind], truth) for kind in ("best", "last")}
        facts["calibration_error"] = task.details(kept, truth).get("calibration error")
        if self.teacher:
            facts["agreement"] = task.agreement(task.answers(kept), np.load(self.teacher.folder / ANSWERS))
        return facts

    def _outputs(self, inputs: Inputs, file: str) -> Outputs:
        """Of the test images, as those of a file."""
        networks, role = self.networks, self.role
        member = networks.member(role, networks.network(role, weights_of(inputs), file))
        member.tap(networks.example(), frozenset())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return predict(member.to(device), networks.source.test, device, networks.recipe.task)
