"""A black-box teacher: nothing is trained. What it is, and that it fits the data, is found once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kdcompress.artifact import sha256
from kdcompress.models.opaque import GivenTeacher
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.opaque import answers_path, right_share
from kdcompress.pipelines.parts import Role, given, named
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.names import StepName, trained
from kdcompress.recipe import Teacher
from kdcompress.untrusted import existing


@dataclass(frozen=True)
class GivenStep(Step):
    networks: Networks
    role: Role
    collective: ClassVar[bool] = True

    @property
    def name(self) -> StepName:
        return trained(self.role)

    @property
    def _network(self) -> Teacher:
        network = self.networks.parts[self.role].network
        assert isinstance(network, Teacher)
        return network

    @property
    def path(self) -> Path:
        network = self._network
        found = answers_path(network.answers) if network.answers else network.file
        assert found is not None
        return existing(found.expanduser())

    def key(self, inputs: Inputs) -> Key:
        facts = {key: value for key, value in given(self._network).items() if key not in ("file", "answers")}
        params = {"black box": facts, "task": self.networks.recipe.task}
        return Key(params, {"file": sha256(self.path), "data": self.networks.source.hash}, ("onnxruntime",))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        teacher = self.networks.untrained(self.role)
        found: dict[str, Any] = {"role": self.role, "model": named(self._network), "parameters": None, "history": []}
        if isinstance(teacher, GivenTeacher):
            source = self.networks.source
            about = teacher.given.about.get("teacher")
            return {**found, "images": len(teacher.given.keys), "right": right_share(teacher, source), "about": about}
        return found
