"""What a network learns of a teacher's features before its own training, from images alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kdcompress.console import TrainingProgress
from kdcompress.distributed import is_main_process
from kdcompress.models.checkpoint import save_weights
from kdcompress.models.counting import count_parameters
from kdcompress.pipelines import pretraining
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role, described, named, with_defaults
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.made_of import contents, made_by
from kdcompress.pipelines.steps.names import StepName, pretrained, trained, weights_of
from kdcompress.training.engine import train


@dataclass(frozen=True)
class PretrainStep(Step):
    networks: Networks
    role: Role
    collective: ClassVar[bool] = True

    @property
    def name(self) -> StepName:
        return pretrained(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        return () if pretraining.asked(self.networks, self.role).teacher else (trained(pretraining.TEACHER),)

    @property
    def resumes(self) -> bool:
        return True

    def key(self, inputs: Inputs) -> Key:
        networks, part = self.networks, self.networks.parts[self.role]
        pretrain = pretraining.asked(networks, self.role)
        members = [part.network, *([pretrain.teacher] if pretrain.teacher else [])]
        params = {
            "networks": [described(network) for network in members],
            "seen": networks.normalisation(self.role)[:2],  # of the student, whose data count by their images alone
            "train": pretrain.train.deciding(),
            "augment": pretrain.views(networks.recipe.data.augment).seen(two=False).deciding(),
            "method": with_defaults(pretrain.method),
            "seed": part.seed,
            "labels": networks.source.labels,  # of the classifier, which is in the file as it was
        }
        hashes = {"images": networks.sources.without_labels.hash}
        hashes |= {str(name): inputs[name].hash for name in self.after}
        hashes |= contents(members, pretrain.method)
        return Key(params, hashes, ("torch", "torchvision", "timm", *sorted(made_by(members))))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """``weights.safetensors``, of the whole network: what no feature depends on is as it was."""
        networks, role, part = self.networks, self.role, self.networks.parts[self.role]
        pretrain = pretraining.asked(networks, role)
        distillation = pretraining.distillation(networks, role, weights_of(inputs))
        teacher = pretrain.teacher or networks.parts[pretraining.TEACHER].network
        facts = {"role": str(self.name), "model": named(part.network)}
        found: dict[str, Any] = {**facts, "method": " + ".join(pretrain.method), "teacher": named(teacher)}
        augment, source = pretrain.views(networks.recipe.data.augment), networks.sources.without_labels
        with TrainingProgress(str(self.name)) as progress:
            result = train(distillation, source, pretrain.train, augment, part.seed, folder, progress)
        if not is_main_process():
            return found
        net = distillation.student.net.cpu()
        net.load_state_dict(result.weights)
        spec = networks.spec(role)
        seen = {key: json.dumps(getattr(spec, key)) for key in ("mean", "std")}
        save_weights(distillation.deployable(), folder / "weights.safetensors", facts | seen)
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        return found | {"parameters": count_parameters(net), "images": len(source.train)} | result.record()
