"""The file of a black-box teacher, as it is: it stands beside those that are made, and is measured as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcompress.artifact import copy_to
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.opaque import artifact_of_file
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.names import StepName, exported, recorded, trained
from kdcompress.recipe import Teacher


@dataclass(frozen=True)
class PassedStep(Step):
    networks: Networks
    role: Role

    @property
    def name(self) -> StepName:
        return exported(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        return (trained(self.role),)

    @property
    def may_fail(self) -> bool:
        return True

    def key(self, inputs: Inputs) -> Key:
        return Key({"as it is": True}, {self.role: inputs[trained(self.role)].hash})

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        network = self.networks.parts[self.role].network
        assert isinstance(network, Teacher)
        artifact = artifact_of_file(network)
        path = folder / f"{self.role}{artifact.path.suffix}"
        copy_to(artifact.path, path)
        return recorded(replace(artifact, path=path).verified())
