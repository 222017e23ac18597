"""The file of a black-box teacher, by its own runtime on the test split. There is no network to hold it to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress.data.loader import eval_batches
from kdcompress.models.opaque import FileTeacher
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role, given
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.check import judged
from kdcompress.pipelines.steps.names import StepName, artifact_of, checked, exported

BATCH = 256


@dataclass(frozen=True)
class ScoredStep(Step):
    networks: Networks
    role: Role

    @property
    def name(self) -> StepName:
        return checked(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        return (exported(self.role),)

    @property
    def may_fail(self) -> bool:
        return True

    def key(self, inputs: Inputs) -> Key:
        params = {"task": self.networks.recipe.task, "black box": given(self.networks.parts[self.role].network)}
        params |= self.networks.figure_key
        return Key(params, {"artifact": inputs[exported(self.role)].hash, "data": self.networks.source.hash})

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """``check.ANSWERS``, the task's to the test split, seen as it sees the images that it teaches with."""
        artifact_of(inputs, exported(self.role)).verified()
        split, teacher = self.networks.source.test, self.networks.untrained(self.role)
        assert isinstance(teacher, FileTeacher)
        task = self.networks.task.judging(threshold=teacher.threshold)
        with torch.inference_mode():
            found = [teacher(batch.x).numpy() for batch in eval_batches(split, BATCH)]
        facts = judged(folder, task, task.kept((np.concatenate(found),)), split.truth)
        return {**facts, "answer_ms": None, "parity": None, "runtime": teacher.runner().details()}
