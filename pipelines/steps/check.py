"""A file held to the network that it was made from: parity with PyTorch, and its score on the test split, by the
file in its own runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.data.truth import Truth
from kdcompress.errors import KDCompressError
from kdcompress.export import formats
from kdcompress.export.bisect import first_difference, layers, tolerance_of
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.suppression import finished
from kdcompress.models.checkpoint import load_weights
from kdcompress.models.deployable import Deployable
from kdcompress.parity import parity
from kdcompress.pipelines.answering import TIMED_IMAGES, answer_ms, outside
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.names import StepName, artifact_of, checked, exported, trained, weights_of
from kdcompress.pipelines.steps.target import QAT_WEIGHTS
from kdcompress.runner import infer_all
from kdcompress.task import Outputs, Task

PARITY_IMAGES = 256
ANSWERS = "answers.npy"


def judged(folder: Path, task: Task, outputs: Outputs, truth: Truth) -> dict[str, Any]:
    """What is told of a file's ``outputs`` to a split. The task's answers by them are in ``folder`` / ``ANSWERS``
    then."""
    np.save(folder / ANSWERS, task.answers(outputs))
    facts = {"score": task.score(outputs, truth), "details": task.details(outputs, truth), "n": len(truth)}
    calibration = task.calibration(outputs, truth)
    return facts | ({"calibration": vars(calibration)} if calibration else {})


@dataclass(frozen=True)
class CheckStep(Step):
    networks: Networks
    role: Role
    target: formats.Target | None = None  # None: the fp32 ONNX

    @property
    def _target(self) -> str | None:
        return self.target.name if self.target else None

    @property
    def name(self) -> StepName:
        return checked(self.role, self._target)

    @property
    def built(self) -> StepName:
        return exported(self.role, self._target)

    @property
    def after(self) -> tuple[StepName, ...]:
        return (self.built,)

    @property
    def may_fail(self) -> bool:
        return self.target is not None or self.role == "teacher"

    def check(self) -> None:
        formats.runners[self.target.runtime if self.target else "onnxruntime-cpu"].check()

    def key(self, inputs: Inputs) -> Key:
        hashes = {"artifact": inputs[self.built].hash, "weights": inputs[trained(self.role)].hash}
        timed = {"timed": after} if (after := self.networks.task.metric.after) else {}
        return Key(
            {"task": self.networks.recipe.task, **timed, **self.networks.figure_key},
            {**hashes, "data": self.networks.source_of(self.role).hash},
            ("onnxruntime",),
        )

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """``ANSWERS``, the task's to the test split."""
        source, artifact = self.networks.source_of(self.role), artifact_of(inputs, self.built).verified()
        task = self.networks.judge(artifact.input)
        spec, images = artifact.input, source.validation.images[:PARITY_IMAGES]
        module = self._module(artifact, inputs)
        suppresses = self.target is not None and self.target.options.nms == "graph"
        self._check_record(artifact, finished(module.spec, str(self.built)) if suppresses else module.spec)
        with formats.open_runner(artifact, threads=torch.get_num_threads()) as runner:
            with TorchRunner(module, spec) as reference:
                agreement = parity(reference, runner, images, spec, artifact.precision)
            outputs = infer_all(runner, source.test.images, spec, keep=task.kept)
            details = runner.details()
            few = infer_all(runner, source.test.images[:TIMED_IMAGES], spec) if outside(spec) else ()
        facts = judged(folder, task, outputs, source.test.truth)
        compared: dict[str, Any] = agreement.to_json()
        parent = artifact_of(inputs, exported(self.role))
        if not agreement and artifact.format == "onnx" and artifact.provenance.get("parent") == parent.sha256:
            found = layers(parent.path, artifact.path, images)
            first = first_difference(found, tolerance_of(artifact.precision))
            compared["first_difference"] = str(first) if first else None
        facts["answer_ms"] = answer_ms(task, few, (spec.height, spec.width)) if few else None
        return {**facts, "parity": compared, "runtime": details}

    def _check_record(self, artifact: Artifact, wanted: InputSpec) -> None:
        """Raises KDCompressError for another input or other labels, in another order say: no measurement shows that."""
        if artifact.input == wanted:
            return
        got = {key: value for key, value in vars(artifact.input).items() if value != getattr(wanted, key)}
        raise KDCompressError(
            "The artefact's record does not match the network: its input or its labels differ.",
            where=artifact.path,
            got=got,
            allowed={key: getattr(wanted, key) for key in got},
            hint=f"build it again: --force {self.built}",
        )

    def _module(self, artifact: Artifact, inputs: Inputs) -> Deployable:
        """What the file was made from: the student, or the one that learnt to be quantised for it."""
        net = self.networks.network(self.role, weights_of(inputs))
        threshold = artifact_of(inputs, exported(self.role)).input.threshold
        module = self.networks.deployable(self.role, net, threshold)
        if (learnt := artifact.path.with_name(QAT_WEIGHTS)).exists():
            load_weights(module.net, learnt)
        return module
