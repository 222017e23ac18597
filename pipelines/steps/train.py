"""A network's training, or the weights that it is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from kdcompress.console import TrainingProgress
from kdcompress.distributed import is_main_process
from kdcompress.models.checkpoint import save_weights
from kdcompress.models.counting import count_parameters
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role, described, named, pruned_of, with_defaults
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.made_of import contents, made_by
from kdcompress.pipelines.steps.names import StepName, of_exemplars, pretrained, trained, tuned, weights_of
from kdcompress.pipelines.tracking import Tracking
from kdcompress.pipelines.tuned import with_values
from kdcompress.training.engine import train


@dataclass(frozen=True)
class TrainStep(Step):
    networks: Networks
    role: Role
    profile: Path | None = None  # a folder for where the training's time goes
    tracking: Tracking | None = None
    collective: ClassVar[bool] = True

    @property
    def name(self) -> StepName:
        return trained(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        part = self.networks.parts[self.role]
        begun = [pretrained(self.role)] if part.pretrain else []
        searched = [tuned(self.role)] if part.is_tuned else []
        lesson = part.lesson
        kept = [of_exemplars(lesson.start)] if lesson and lesson.start and lesson.exemplars else []
        return (*map(trained, part.after()), *begun, *searched, *kept)

    @property
    def resumes(self) -> bool:
        return True

    def settled(self, winner: Mapping[str, float]) -> TrainStep:
        """With these settings, and no search for others."""
        part = with_values(self.networks.parts[self.role], winner)
        return replace(self, networks=self.networks.with_part(self.role, part))

    def key(self, inputs: Inputs) -> Key:
        part = self.networks.parts[self.role]
        if part.is_tuned:
            return self.settled(inputs[tuned(self.role)].result["winner"]).key(inputs)
        params: dict[str, Any] = {
            "network": described(part.network),
            "train": part.train and part.train.deciding(),
            "augment": part.seen(self.networks.recipe.data.augment).deciding(),
            "method": with_defaults(part.method),
            "seed": part.seed,
            "peers": [described(peer) for peer in part.company()],
            "task": self.networks.recipe.task,
            **self.networks.figure_key,
        }
        source = self.networks.trained_on(self.role)
        params |= {"views of": source.like} if source.like else {}
        hashes = {"data": source.hash} | ({"shown": source.shown.hash} if source.shown else {})
        if source.unlabelled and any(kind.needs.teacher for kind in part.kinds):
            hashes["unlabelled"] = source.unlabelled.hash
        hashes |= {str(name): inputs[name].hash for name in self.after}
        members = [part.network, *part.company()]
        hashes |= contents(members, part.method)
        makers = made_by(members) | ({"torch-pruning"} if pruned_of(part.network) else set())
        return Key(params, hashes, ("torch", "torchvision", "timm", *sorted(makers)))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """``weights.safetensors``; beside it, of a training, the best or the last ones where they are others."""
        networks, role, part = self.networks, self.role, self.networks.parts[self.role]
        if part.is_tuned:
            return self.settled(inputs[tuned(role)].result["winner"]).do(folder, inputs)
        weights, facts = weights_of(inputs), {"role": role, "model": named(part.network)}
        if part.train is None:
            net = networks.untrained(role, weights=weights)
            if is_main_process():
                save_weights(net, folder / "weights.safetensors", facts | in_and_out(networks, role))
            return {**facts, "parameters": count_parameters(net), "history": []}
        facts["method"] = " + ".join(part.method)
        distillation, augment = networks.distillation(role, weights), networks.recipe.data.augment
        found: dict[str, Any] = {**facts, "auxiliary_parameters": count_parameters(distillation.methods)}
        tracking = self.tracking or Tracking((), "", folder)
        with TrainingProgress(role) as progress, tracking.follow(networks, role, folder, progress) as told:
            source = networks.trained_on(role, weights=weights)
            result = train(distillation, source, part.train, augment, part.seed, folder, told, self.profile)
        if not is_main_process():
            return found
        net = distillation.student.net.cpu()
        other = "last" if result.selected == "best" else "best"
        for kind, file in ((other, other), (result.selected, "weights")):
            net.load_state_dict(getattr(result, f"{kind}_weights"))
            ships = distillation.deployable()
            save_weights(ships, folder / f"{file}.safetensors", facts | in_and_out(networks, role))
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        for method in distillation.auxiliary().values():
            found |= method.report()
        ships = networks.as_it_ships(role, ships)
        found |= {"parameters": count_parameters(ships), "macs": networks.macs(role, ships)}
        if whole := pruned_of(part.network):
            net = networks.network(whole, weights)
            found["pruned_from"] = {"parameters": count_parameters(net), "macs": networks.macs(whole, net)}
        return found | result.record()


def in_and_out(networks: Networks, role: Role) -> dict[str, str]:
    """What a file of weights says of what goes into its network and comes out."""
    spec = networks.spec(role)
    return {key: json.dumps(getattr(spec, key), ensure_ascii=False) for key in ("labels", "mean", "std")}
