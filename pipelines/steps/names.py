"""Names of steps, and what earlier ones hand on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdcompress.artifact import Artifact, write_text
from kdcompress.errors import UsageError
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.runs import Inputs


@dataclass(frozen=True)
class StepName:
    """What a step makes, of which network and for which target. As text, its folder's name and what users call it."""

    kind: Literal["pretrain", "tune", "train", "exemplars", "learnt", "export", "check", "latency"]
    role: Role = ""
    target: str | None = None  # None: the fp32 ONNX, which the others are made from

    def __str__(self) -> str:
        built = f"{self.role}-{self.target or 'fp32'}"
        network = {"train": self.role, "pretrain": f"pretrain-{self.role}", "tune": f"tune-{self.role}"}
        network |= {"exemplars": f"exemplars-{self.role}", "learnt": f"learnt-{self.role}"}
        return {**network, "export": built, "check": f"check-{built}", "latency": "latency"}[self.kind]


LATENCY = StepName("latency")


def tuned(role: Role) -> StepName:
    return StepName("tune", role)


def trained(role: Role) -> StepName:
    return StepName("train", role)


def pretrained(role: Role) -> StepName:
    return StepName("pretrain", role)


def of_exemplars(role: Role) -> StepName:
    return StepName("exemplars", role)


def learnt(role: Role) -> StepName:
    return StepName("learnt", role)


def exported(role: Role, target: str | None = None) -> StepName:
    return StepName("export", role, target)


def checked(role: Role, target: str | None = None) -> StepName:
    return StepName("check", role, target)


def weights_of(inputs: Inputs) -> dict[Role, Path]:
    """By role, the folder of each finished training; by its step's name, that of a pre-training or of exemplars."""
    return {str(name): done.folder for name, done in inputs.items() if name.kind in ("train", "pretrain", "exemplars")}


def artifact_of(inputs: Inputs, name: StepName) -> Artifact:
    done = inputs[name]
    return Artifact.from_json(done.result["artifact"], done.folder)


def damaged(inputs: Inputs) -> dict[StepName, UsageError]:
    """The files that are not as they were built. They are neither timed nor handed out."""
    found = {}
    for name in inputs:
        if name.kind == "export":
            try:
                artifact_of(inputs, name).verified()
            except UsageError as error:
                found[name] = error
    return found


def recorded(artifact: Artifact) -> dict[str, Any]:
    """A step's result: the artefact. Its record is written beside its file, for the commands that are given the file
    alone."""
    record = artifact.to_json()
    write_text(artifact.path.with_name(artifact.path.name + ".json"), json.dumps(record, indent=1, default=str))
    return {"artifact": record}
