"""The student's file for a target. An int8 one that can be run here climbs the ladder until it is accurate enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdcompress.artifact import Artifact, remove
from kdcompress.console import TrainingProgress
from kdcompress.export import formats
from kdcompress.export.to_onnx import export_onnx
from kdcompress.intervals import Sample, sample
from kdcompress.models.checkpoint import save_weights
from kdcompress.pipelines.ladder import RULES, as_in, climb
from kdcompress.pipelines.networks import Networks, Weights
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.sensitivity_table import measured_ranking
from kdcompress.pipelines.steps.names import StepName, artifact_of, exported, recorded, trained, weights_of
from kdcompress.pipelines.steps.train import in_and_out
from kdcompress.runner import infer_all
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import train

QAT_WEIGHTS = "qat.safetensors"


@dataclass(frozen=True)
class TargetStep(Step):
    networks: Networks
    target: formats.Target
    private: bool = False  # the teachers know private images, and teach no further
    tables: Path | None = None  # the folder of `kdcompress sensitivity`, whose ranking of layers the ladder takes

    @property
    def name(self) -> StepName:
        return exported("student", self.target.name)

    @property
    def after(self) -> tuple[StepName, ...]:
        return (exported("student"), trained(guide(self.networks))) if self.learns else (exported("student"),)

    @property
    def may_fail(self) -> bool:
        return True

    @property
    def resumes(self) -> bool:
        return self.climbs

    @property
    def climbs(self) -> bool:
        return self.target.precision == "int8" and formats.availability(self.target)[1]

    @property
    def learns(self) -> bool:
        """Whether the ladder's last rung is a training."""
        return self.climbs and self.networks.recipe.export.qat is not None and not self.private

    def check(self) -> None:
        formats.writers[self.target.writer].check()

    def key(self, inputs: Inputs) -> Key:
        export = self.networks.recipe.export
        params: dict[str, Any] = {"target": self.target.model_dump(mode="json"), "images": export.calibration_images}
        hashes = {"parent": inputs[exported("student")].hash, "data": self.networks.source.hash}
        if self.climbs:
            params |= {"ladder": RULES, "max_drop": export.max_drop, "qat": export.qat and export.qat.deciding()}
            params |= self.networks.figure_key
            hashes["weights"] = inputs[trained("student")].hash
        if self.learns:
            hashes["guide"] = inputs[trained(guide(self.networks))].hash
            source = self.networks.trained_on("student", [guide(self.networks)])
            hashes |= {"shown": source.shown.hash} if source.shown else {}
            unlabelled = source.unlabelled
            if unlabelled and not self.networks.parts["student"].taught():  # else the student's weights are of them too
                hashes["unlabelled"] = unlabelled.hash
        packages = ("torch", "onnx", "onnxruntime", *formats.writers[self.target.writer].packages)
        return Key(params, hashes, packages)

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        networks, export, weights = self.networks, self.networks.recipe.export, weights_of(inputs)
        parent = artifact_of(inputs, exported("student"))
        module = networks.deployable("student", networks.network("student", weights), parent.input.threshold)
        job = formats.ExportJob(module, parent, networks.calibration(weights=weights), folder, "student")
        if not self.climbs:
            return recorded(formats.build(job, self.target))
        distil = partial(learn_quantized, networks, weights, job) if self.learns else None
        score = partial(validation_score, networks)
        artifact = climb(job, self.target, score, export.max_drop, distil, partial(self.ranked, parent))
        remove(folder / "learning")
        if artifact.provenance["parent"] == parent.sha256:  # not of a student that learnt to be quantised
            remove(folder / QAT_WEIGHTS)
        return recorded(artifact)

    def ranked(self, parent: Artifact) -> list[str] | None:
        """The layers by what int8 costs them, as `kdcompress sensitivity` measured it, where it has."""
        source = self.networks.source
        facts = (parent.sha256, source.hash, len(source.validation))
        return measured_ranking(self.tables, self.target, *facts) if self.tables else None


def guide(networks: Networks) -> Role:
    """Who teaches it to be quantised: itself, where its teacher knows fewer classes."""
    part = networks.parts["student"]
    return "student" if part.lesson else next(iter(part.teachers), "student")


def validation_score(networks: Networks, artifact: Artifact, count: int | None = None) -> Sample:
    """The answers to the validation images, or the first ``count``, by the file in its own runtime, judged."""
    split, task = networks.source.validation, networks.judge(artifact.input)
    images, truth = (split.images, split.truth) if count is None else (split.images[:count], split.truth[:count])
    with formats.open_runner(artifact, threads=torch.get_num_threads()) as runner:
        outputs = infer_all(runner, images, artifact.input, keep=task.kept)
    return sample(task, task.answers(outputs), truth, task.score(outputs, truth))


def learn_quantized(
    networks: Networks, weights: Weights, job: formats.ExportJob, scheme: formats.Scheme
) -> formats.ExportJob:
    """The job with a student that has learnt to be quantised: trained further with weights and activations as they are
    in ``scheme``, from the teacher, or from itself where there is none. Its weights are kept beside what is built from
    it."""
    part, export, folder = networks.parts["student"], networks.recipe.export, job.folder / "learning"
    assert export.qat is not None
    teacher, spec = guide(networks), networks.spec("student")
    student = networks.deployable("student", networks.network("student", weights)).net
    distillation = Distillation(
        Member(student, spec.mean, spec.std, size=part.network.size),
        [networks.member(teacher, networks.network(teacher, weights))],
        {"quantized": as_in(scheme)},
        networks.example(),
        task=networks.task,
        shown=networks.shown([teacher]),
    )
    folder.mkdir(exist_ok=True)
    source, augment = networks.trained_on("student", [teacher], weights), networks.recipe.data.augment
    with TrainingProgress("quantisation-aware student") as progress:
        result = train(distillation, source, export.qat, augment, part.seed, folder, progress)
    net = distillation.student.net.cpu()
    net.load_state_dict(result.weights)
    learnt = distillation.deployable()
    facts = {"role": "student", "model": part.network.model}
    save_weights(learnt, job.folder / QAT_WEIGHTS, facts | in_and_out(networks, "student"))
    module = networks.deployable("student", learnt, job.parent.input.threshold)
    metadata = {"recipe": networks.recipe.name, "source_hash": networks.source.hash}
    metadata["normalisation"] = networks.normalisation("student")[2]
    path = folder / job.parent.path.name
    parent = export_onnx(module, module.spec, path, opset=export.opset, metadata=metadata)
    return replace(job, module=module, parent=parent)
