"""From a role in a recipe, and the weights that are there, to a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdcompress.artifact import InputSpec
from kdcompress.console import say_once
from kdcompress.data.labels import match_labels
from kdcompress.data.splits import Source
from kdcompress.errors import UsageError, told
from kdcompress.export.calibrate import calibration_images
from kdcompress.models.answers import answer_of, described
from kdcompress.models.build import build, pretrained_facts
from kdcompress.models.checkpoint import facts_of, load_weights
from kdcompress.models.classes import reorder_classes
from kdcompress.models.counting import largest_layer, macs
from kdcompress.models.deployable import Deployable
from kdcompress.models.evaluating import evaluating
from kdcompress.models.grown import grow
from kdcompress.models.merge import merged
from kdcompress.models.prune import prune
from kdcompress.pipelines.opaque import artifact_of_file, opaque
from kdcompress.pipelines.parts import Part, Role, input_of, is_opaque, pruned_of
from kdcompress.pipelines.sources import Sources
from kdcompress.recipe import Input, Network, Recipe, Student, Teacher
from kdcompress.task import Task
from kdcompress.tasks import tasks
from kdcompress.training.distillation import Distillation, Member

Weights = Mapping[Role, Path]
"""By role, the folder of a finished training: weights.safetensors, and best or last beside it. By "pretrain-ROLE", that
of what its training starts from; by "exemplars-ROLE", that of what is kept of the classes that it knows."""
UNTRAINED: Weights = {}


@dataclass(frozen=True)
class Networks:
    """Those that the recipe names. ``network`` in a method's arguments is another than the role's own: a peer's."""

    recipe: Recipe
    parts: Mapping[Role, Part]
    sources: Sources

    @property
    def task(self) -> Task:
        return tasks[self.recipe.task].judging(self.recipe.metric)

    def judge(self, spec: InputSpec) -> Task:
        """What judges the outputs of a file: as it is asked for, with the threshold that the file ships with."""
        return self.task.judging(threshold=spec.threshold)

    @property
    def figure_key(self) -> dict[str, str]:
        """Of the key of a step whose result depends on the figure; nothing where that is the task's own."""
        own = tasks[self.recipe.task].metric == self.task.metric
        return {} if own else {"metric": str(self.recipe.metric)}

    @property
    def source(self) -> Source:
        """As the student sees its images."""
        return self.sources.main

    def sources_of(self, role: Role) -> Sources:
        """As this network sees their images."""
        asked = input_of(self.parts[role].network)
        return self.sources.shown(asked) if asked else self.sources

    def source_of(self, role: Role) -> Source:
        """As this network sees its images, and is judged by them: of the classes that it knows."""
        part = self.parts[role]
        return self.sources.of(part) if part.lesson else self.sources_of(role).main

    def with_part(self, role: Role, part: Part) -> Networks:
        """The same, with another description of this one."""
        return replace(self, parts={**self.parts, role: part})

    def trained_on(self, role: Role, teachers: Iterable[Role] | None = None, weights: Weights = UNTRAINED) -> Source:
        """With what its teachers see, or these, where that is something else; and with the exemplars of earlier groups
        where they are chosen."""
        part = self.parts[role]
        source = self.sources_of(role).of(part)
        if part.lesson and (kept := weights.get(f"exemplars-{part.lesson.start}")):
            source = self.sources.learning(part.lesson.group, np.load(kept / "exemplars.npy").ravel())
        asked = self._shown_to(part.taught() if teachers is None else teachers)
        return replace(source, shown=self.sources.shown(asked).of(part)) if asked else source

    def _shown_to(self, teachers: Iterable[Role]) -> Input | None:
        return next(filter(None, (input_of(self.parts[teacher].network) for teacher in teachers)), None)

    def example(self, role: Role = "student") -> Tensor:
        """Two training images as the network sees them, uint8 [2, C, H, W]."""
        return torch.from_numpy(self.source_of(role).train.images[:2]).permute(0, 3, 1, 2).contiguous()

    def shown(self, teachers: Iterable[Role]) -> Tensor | None:
        """The example images as these teachers see them, where that is not what the student sees."""
        return next((self.example(teacher) for teacher in teachers if self._shown_to([teacher])), None)

    def calibration(self, role: Role = "student", weights: Weights = UNTRAINED) -> np.ndarray:
        """Training images for the quantiser's ranges, uint8 [N, H, W, C]: of those that are there when the last group
        is learnt, where classes are learnt in groups."""
        lesson = self.parts[role].lesson
        source = self.trained_on(role, (), weights) if lesson else self.source_of(role)
        return calibration_images(source.train.images, self.recipe.export.calibration_images)

    # What goes in

    def spec(self, role: Role, network: Network | None = None) -> InputSpec:
        network, export = network or self.parts[role].network, self.recipe.export
        if pruned := pruned_of(network):
            return self.spec(pruned)
        if isinstance(network, Teacher) and network.file:
            return artifact_of_file(network).input
        _, height, width, channels = self.source_of(role).train.images.shape
        mean, std, _ = self.normalisation(role, network)
        return InputSpec(
            height=height,
            width=width,
            channels=channels,
            mean=mean,
            std=std,
            labels=self.source_of(role).labels,
            layout=export.layout,
            batch=export.batch,
            task=self.recipe.task,
            fit=self.recipe.data.fit,
        )

    def normalisation(
        self, role: Role, network: Network | None = None
    ) -> tuple[tuple[float, ...], tuple[float, ...], str]:
        """(mean, std, where they are from): the statistics that the network's weights are used to, one a channel."""
        network, channels = network or self.parts[role].network, self.source_of(role).train.images.shape[-1]
        if pruned := pruned_of(network):
            return self.normalisation(pruned)
        if network.mean and network.std:
            mean, std = (values * channels if len(values) == 1 else values for values in (network.mean, network.std))
            if {len(mean), len(std)} != {channels}:
                raise UsageError(
                    "The normalisation does not fit the images.",
                    where=role,
                    got=f"mean {list(mean)}, std {list(std)}",
                    allowed=f"{channels} numbers, one per channel, or one for all",
                )
            return mean, std, "as given"
        said = facts_of(network.weights) if network.weights else {}
        if len(said.get("mean", ())) == channels:
            return said["mean"], said["std"], "what the weights' file says"
        if network.pretrained and channels == 3:
            known = pretrained_facts(network.model, network.options)
            return known.mean, known.std, "those of its pretraining"
        seen = self.source if self.parts[role].private else self.trained_on(role)  # private pixels give no statistics
        unsaid = "; the weights' file says nothing of it" if network.weights else ""
        return seen.mean, seen.std, f"statistics of the training images{unsaid}"

    def member(self, role: Role, net: nn.Module, network: Network | None = None) -> Member:
        if is_opaque(network or self.parts[role].network):
            return Member(net)
        spec, network = self.spec(role, network), network or self.parts[role].network
        return Member(net, spec.mean, spec.std, network.taps, network.size)

    def with_features(self, role: Role, net: nn.Module) -> Member:
        """Tapped for the classifier's input."""
        member = self.member(role, net)
        member.tap(self.example(role), frozenset({"pooled"}))
        return member

    def input(self, role: Role, net: nn.Module, network: Network | None = None) -> Tensor:
        """The example images as ``net`` takes them, float32 [2, C, H, W]."""
        return self.member(role, net, network).input(self.example(role))

    # Made

    def untrained(
        self, role: Role, network: Network | None = None, seed: int = 0, weights: Weights = UNTRAINED
    ) -> nn.Module:
        """With its seed's initial weights, or those that the recipe or a pre-training gives it. One that is pruned is
        so of a network with ``weights``; for a role that has some no others are downloaded."""
        network, spec, part = network or self.parts[role].network, self.spec(role), self.parts[role]
        if isinstance(network, Teacher) and network.opaque:
            return opaque(network, self.recipe, self.source)
        if isinstance(network, Student) and network.prune:
            net = self._pruned(network, weights)
            torch.manual_seed(part.seed + seed)
            return net
        start = self._start(role, weights) if role not in weights and not seed else None  # peers have another seed
        download = network.pretrained and role not in weights and not start
        if download and part.train is None:
            _check_head(network, spec)
        torch.manual_seed(part.seed + seed)
        net = build(network.model, spec.classes, spec.channels, network.options, download)
        if any(map(is_lazy, (*net.parameters(), *net.buffers()))):  # their shapes come with a first input
            wrong = f"{network.model} does not run on these images."
            with told(wrong, where=network.model), evaluating(net), torch.no_grad():
                net(self.input(role, net, network))
        if network.weights:
            load_weights(net, network.weights, network.weights_key)
        if network.weights or download:
            self._in_our_classes(role, network, net)
        if start and part.lesson:
            more = len(spec.labels)
            grow(net, load_file(start), more - self.sources.sizes[part.lesson.group], more)
        elif start:
            load_weights(net, start)
        return net

    def _start(self, role: Role, weights: Weights) -> Path | None:
        """The file that its training starts from: of a pre-training, or of the same network with fewer classes."""
        lesson = self.parts[role].lesson
        folder = weights.get(lesson.start or "") if lesson else weights.get(f"pretrain-{role}")
        return folder / "weights.safetensors" if folder else None

    def with_kept(self, role: Role, weights: Weights = UNTRAINED) -> nn.Module:
        """Untrained, with what its methods keep in what ships."""
        kept = any(kind.deploy == "keep" for kind in self.parts[role].kinds)
        return self.distillation(role, weights).deployable() if kept else self.untrained(role, weights=weights)

    def network(self, role: Role, weights: Weights = UNTRAINED, file: str = "weights") -> nn.Module:
        """With the role's ``weights`` and with what its methods keep; untrained where it has none. ``file``: which of
        them, "best" or "last" where they are not the "weights" that ship."""
        if role not in weights or is_opaque(self.parts[role].network):
            return self.untrained(role, weights=weights)
        whole = self.with_kept(role, weights)
        load_weights(whole, weights[role] / f"{file}.safetensors")
        return whole

    def _in_our_classes(self, role: Role, network: Network, net: nn.Module) -> None:
        """The outputs of weights that name their classes become the source's, by name. Raises UsageError where they are
        others and nothing trains the network further."""
        file, source = network.weights or network.model, self.source
        named = facts_of(network.weights).get("labels") if network.weights else _labels_at_the_hub(network, source)
        if not named:
            return
        try:
            matched = match_labels(named, source.labels, file, source.name)
        except UsageError:
            if self.parts[role].train is None:
                raise
            return say_once(
                f"{role}: {file} were trained on other classes: the training only starts from them", "yellow"
            )
        if matched.reordered:
            reorder_classes(net, np.argsort(matched.numbers).tolist(), self.input(role, net, network))
        if matched.note:
            say_once(f"{role}: {matched.note}", "yellow")

    def _pruned(self, network: Student, weights: Weights) -> nn.Module:
        """What is left of the network that it is pruned of. Before that one is trained this shows whether it can be
        done, and its shapes; with ``ranking: global`` only about its shapes, for the weights decide them."""
        of = str(network.prune)
        whole = self.network(of, weights)
        example = self.input(of, whole)
        return prune(whole, example, network.ratio, network.importance, network.ranking, network.round_to)

    def distillation(self, role: Role, weights: Weights = UNTRAINED) -> Distillation:
        """What is trained for one network: itself untrained, its teachers with their ``weights``, its peers."""
        part = self.parts[role]
        teachers = [self.member(teacher, self.network(teacher, weights)) for teacher in part.taught()]
        peers = [
            self.member(role, self.untrained(role, peer, seed, weights), peer)
            for seed, peer in enumerate(part.company(), 1)
        ]
        return Distillation(
            # last, so that auxiliary modules start from the role's seed
            self.member(role, self.untrained(role, weights=weights)),
            teachers,
            part.method,
            self.example(),
            peers=peers,
            label_smoothing=part.train.label_smoothing if part.train else 0.0,
            images=len(self.trained_on(role, weights=weights).train),
            task=self.task,
            shown=self.shown(part.taught()),
        )

    # As it ships

    def deployable(self, role: Role, net: nn.Module, threshold: float | None = None) -> Deployable:
        """``net`` on the CPU, as it ships, with the ``threshold`` that ships with it."""
        ships, spec = self.as_it_ships(role, net), self.spec(role)
        with evaluating(ships), torch.no_grad():
            answer = answer_of(ships(self.input(role, ships)))
        form = self.recipe.export.outputs
        spec = replace(spec, outputs=described(answer, self.task, spec.labels, form)).with_threshold(threshold)
        return Deployable(ships, spec, self.parts[role].network.size, form).eval()

    def as_it_ships(self, role: Role, net: nn.Module) -> nn.Module:
        """With its blocks' branches merged."""
        return merged(net, self.input(role, net))

    def macs(self, role: Role, net: nn.Module) -> int:
        """Multiply-accumulates of one image."""
        return macs(net, self.input(role, net)[:1])

    def largest_layer(self, role: Role, net: nn.Module) -> int:
        """Values in and out of the network's largest layer, of one image."""
        return largest_layer(net, self.input(role, net)[:1])


def _labels_at_the_hub(network: Network, source: Source) -> tuple[str, ...]:
    """What a library's weights say of their classes; nothing where the classifier is a new one."""
    known = pretrained_facts(network.model, network.options)
    return known.labels if known.classes == len(source.labels) else ()


def _check_head(network: Network, spec: InputSpec) -> None:
    """Raises UsageError where a pretrained network that is not trained further was made for other data."""
    known = pretrained_facts(network.model, network.options)
    if (known.classes, len(known.mean)) != (spec.classes, spec.channels):
        raise UsageError(
            f"{network.model} was pretrained on other data, and nothing trains its classifier for these.",
            got=f"{spec.classes} classes, images of {spec.channels} channels",
            allowed=f"{known.classes} classes, images of {len(known.mean)} channels",
            hint="train the network on these data (`train`), or give `weights` that were",
        )
