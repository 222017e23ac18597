"""The main flow: data -> teacher -> student -> fp32 ONNX -> targets -> every file measured -> report."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import yaml
from torch.nn.parameter import is_lazy

import kdcompress
from kdcompress.artifact import Artifact, InputSpec, content_hash, remove, sha256, write_text
from kdcompress.bench.advice import advice
from kdcompress.bench.devices import LOCAL
from kdcompress.bench.machine import machine, packages
from kdcompress.compare import parity
from kdcompress.console import TrainingProgress, say, say_once
from kdcompress.data.labels import match_labels
from kdcompress.data.source import Source, load, load_parts
from kdcompress.distributed import check_launch
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, cut, told
from kdcompress.export import formats
from kdcompress.export.bisect import first_difference, steps, tolerance_of
from kdcompress.export.calibrate import calibration_images
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.to_onnx import export_onnx
from kdcompress.methods import methods
from kdcompress.models.build import build, count_parameters, evaluating, largest_layer, macs, pretrained_facts
from kdcompress.models.checkpoint import facts_of, load_weights, save_weights
from kdcompress.models.classes import reorder_classes
from kdcompress.models.deployable import Deployable
from kdcompress.models.merge import merged
from kdcompress.models.prune import prune
from kdcompress.ours import Ours
from kdcompress.own_code import located
from kdcompress.pipelines import publication
from kdcompress.pipelines.ladder import as_in, climb
from kdcompress.pipelines.parts import Role, described, named, parts, pruned_of
from kdcompress.pipelines.preflight import (
    RECORD,
    exports_key,
    passed,
    random_states_kept,
    try_exports,
    try_network,
)
from kdcompress.pipelines.private import check_private
from kdcompress.pipelines.stages import Done, RunFolder, Stage
from kdcompress.pipelines.timed import conditions, time_files
from kdcompress.pipelines.user_code import code_hash
from kdcompress.pipelines.verdict import BYTES, budgets, check_budgets, gates, judge, margin, predictions, ratios
from kdcompress.recipe import Network, Recipe, Student, code_of, load_recipe
from kdcompress.report.rows import Row
from kdcompress.runner import infer_all
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import check_optimizer, choose_precision, train
from kdcompress.training.profile import FILES

PARITY_IMAGES = 256
RECIPE = "recipe.yaml"
PRIVATE = "private"
QAT_WEIGHTS = "qat.safetensors"


@dataclass
class Step:
    """A stage to be, once the steps before it are done."""

    name: str
    after: tuple[str, ...]
    stage: Callable[[dict[str, Done]], Stage]
    may_fail: bool = False  # one failing target never stops the others
    available: Callable[[], None] = lambda: None  # raises RuntimeMissingError where it cannot be done here


Shipped = Literal["teacher", "student"]


class Compression:
    """One run of a recipe in a folder."""

    def __init__(self, recipe: Recipe, folder: Path, command: str = ""):
        self.recipe, self.folder, self.command = recipe, RunFolder(Path(folder)), command
        self.profile: Path | None = None  # a folder for where the time of the student's training goes
        self.done: dict[str, Done] = {}
        self.errors: dict[str, Exception] = {}
        self.parts = parts(recipe)
        self.tried: dict[str, UsageError | None] = {}  # networks that the check has run, and what is wrong with them
        self.passed: list[str] = []  # what its pre-flight found to be exported and written well

    @cached_property
    def source(self) -> Source:
        return load(self.recipe.data)

    @cached_property
    def all_images(self) -> Source:
        """With every training image: what a teacher may be trained on where the student has few."""
        return load(self.recipe.data.model_copy(update={"train_images": None}))

    @cached_property
    def private(self) -> list[Source]:
        """The private images, a part for each teacher that is trained."""
        return load_parts(self.recipe.data, sum(part.private is not None for part in self.parts.values()))

    def trained_on(self, role: Role) -> Source:
        part = self.parts[role]
        if part.private:
            return self.private[part.private[0]]
        return self.all_images if part.all_images and self.recipe.data.train_images is not None else self.source

    def __getstate__(self) -> dict[str, Any]:
        """Without the data: a process that this is sent to loads its own."""
        return {key: value for key, value in self.__dict__.items() if key not in ("source", "all_images", "private")}

    # What the recipe names, made

    def spec(self, role: Role, network: Network | None = None) -> InputSpec:
        network, source, export = network or self.parts[role].network, self.source, self.recipe.export
        if pruned := pruned_of(network):
            return self.spec(pruned)
        _, height, width, channels = source.train.images.shape
        mean, std, _ = self.normalisation(role, network)
        return InputSpec(
            height=height,
            width=width,
            channels=channels,
            mean=mean,
            std=std,
            labels=source.labels,
            layout=export.layout,
            batch=export.batch,
        )

    def normalisation(
        self, role: Role, network: Network | None = None
    ) -> tuple[tuple[float, ...], tuple[float, ...], str]:
        """(mean, std, where they are from): the statistics that the network's weights are used to, one a channel."""
        network, channels = network or self.parts[role].network, self.source.train.images.shape[-1]
        if pruned := pruned_of(network):
            return self.normalisation(pruned)
        if network.mean and network.std:
            mean, std = (values * channels if len(values) == 1 else values for values in (network.mean, network.std))
            if {len(mean), len(std)} != {channels}:
                got, allowed = (
                    f"mean {list(mean)}, std {list(std)}",
                    f"{channels} numbers, one a channel, or one for all",
                )
                raise UsageError("The normalisation does not fit the images.", where=role, got=got, allowed=allowed)
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

    def untrained(self, role: Role, network: Network | None = None, seed: int = 0) -> torch.nn.Module:
        """The role's network, or a peer's, with its seed's initial weights or those of its checkpoint."""
        part, spec = self.parts[role], self.spec(role)
        network = network or part.network
        if isinstance(network, Student) and network.prune:
            net = self.pruned(network)
            torch.manual_seed(part.seed + seed)
            return net
        download = network.pretrained and role not in self.done  # what is trained already needs no other weights
        if download and part.train is None:
            _check_head(network, spec)
        torch.manual_seed(part.seed + seed)
        net = build(network.model, spec.classes, spec.channels, network.options, download)
        if any(map(is_lazy, (*net.parameters(), *net.buffers()))):  # their shapes come with a first input
            wrong = f"{network.model} does not run on these images."
            with told(wrong, where=network.model), evaluating(net), torch.no_grad():
                net(self.member(role, net, network).input(self.example()))
        if network.weights:
            load_weights(net, network.weights, network.weights_key)
            self._in_our_classes(role, network, net)
        return net

    def _in_our_classes(self, role: Role, network: Network, net: torch.nn.Module) -> None:
        """The outputs of weights that name their classes become the source's, by name. Raises UsageError where they are
        others and nothing trains the network further."""
        named, source = facts_of(network.weights).get("labels") if network.weights else None, self.source
        if not named:
            return
        try:
            matched = match_labels(named, source.labels, network.weights, source.name)
        except UsageError:
            if self.parts[role].train is None:
                raise
            return say_once(
                f"{role}: {network.weights} were trained on other classes: they are a start alone", "yellow"
            )
        if matched.reordered:
            order = np.argsort(matched.numbers).tolist()
            reorder_classes(net, order, self.member(role, net, network).input(self.example()))
        if matched.note:
            say_once(f"{role}: {matched.note}", "yellow")

    def pruned(self, network: Student) -> torch.nn.Module:
        """What is left of the network that it is pruned of. Before that one is trained this shows whether it can be
        done, and its shapes; with ``ranking: global`` only about its shapes, for the weights decide them."""
        of = str(network.prune)
        whole = self.member(of, self.network(of))
        example = whole.input(self.example())
        return prune(whole.net, example, network.ratio, network.importance, network.ranking, network.round_to)

    def network(self, role: Role, file: str = "weights") -> torch.nn.Module:
        """The network with the weights of its finished training, and with what its methods keep. ``file``: which of
        them, "best" or "last" where they are not the "weights" that ship."""
        if role not in self.done:
            return self.untrained(role)
        kept = any(kind.deploy == "keep" for kind in self.parts[role].kinds)
        net = self.distillation(role).deployable() if kept else self.untrained(role)
        load_weights(net, self.done[role].folder / f"{file}.safetensors")
        return net

    def member(self, role: Role, net: torch.nn.Module, network: Network | None = None) -> Member:
        spec, network = self.spec(role, network), network or self.parts[role].network
        return Member(net, spec.mean, spec.std, network.taps, network.size)

    def macs(self, role: Role, net: torch.nn.Module) -> int:
        """Multiply-accumulates of one image."""
        return macs(net, self.member(role, net).input(self.example()[:1]))

    @cached_property
    def _largest_layer(self) -> int:
        """Values in and out of the student's largest layer, of one image."""
        net = self.network("student")
        return largest_layer(net, self.member("student", net).input(self.example()[:1]))

    def example(self) -> torch.Tensor:
        """Two training images, uint8 [2, C, H, W]."""
        return torch.from_numpy(self.source.train.images[:2]).permute(0, 3, 1, 2).contiguous()

    def distillation(self, role: Role) -> Distillation:
        """What is trained for one network: itself untrained, its teachers trained, its peers."""
        part = self.parts[role]
        teachers = [self.member(teacher, self.network(teacher)) for teacher in part.taught()]
        peers = [
            self.member(role, self.untrained(role, peer, seed), peer) for seed, peer in enumerate(part.company(), 1)
        ]
        return Distillation(
            self.member(role, self.untrained(role)),  # last, so that auxiliary modules start from the role's seed
            teachers,
            part.method,
            self.example(),
            peers=peers,
            label_smoothing=part.train.label_smoothing if part.train else 0.0,
            images=len(self.trained_on(role).train),
        )

    def check(self, ships: bool = True) -> None:
        """Everything that can be known to fail is found now, and all of it at once. ``ships``: whether networks are to
        be exported and written for the targets."""
        problems: list[UsageError] = []

        def attempt(action: Callable[[], Any]) -> None:
            try:
                action()
            except UsageError as error:
                if str(error) not in map(str, problems):
                    problems.append(error)

        several = "teacher-2" in self.parts
        if several and not any(kind.needs.several for kind in self.parts["student"].kinds):
            asked, where = " and ".join(self.recipe.method), "co_teachers" if self.recipe.co_teachers else "ensemble"
            hint = f"method: multi-teacher, or leave {where} out"
            problems.append(UsageError(f"{asked} learns from one teacher.", where=where, hint=hint))
        attempt(check_launch)
        attempt(partial(check_private, self.recipe))
        attempt(partial(check_budgets, self.recipe))
        for name in self.recipe.export.targets:
            attempt(partial(formats.chosen, [name]))
        for name in code_of(self.recipe):
            attempt(partial(located, "model or method", name))
        if not problems:
            attempt(self.targets)
        for part in self.parts.values():
            if part.train:
                attempt(partial(choose_precision, part.train.precision))
            for name, options in part.method.items():
                attempt(partial(parse_options, name, options))
        attempt(lambda: self.source)
        if not problems:  # the networks are built for the source's images and classes
            with random_states_kept():
                self._check_networks(problems, attempt)
                if ships and not problems and is_main_process():
                    self._check_exports(problems)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            listed = "\n".join("- " + str(problem).replace("\n", "\n  ") for problem in problems)
            raise UsageError(f"The recipe has {len(problems)} problems:\n{listed}")

    def check_folder(self, profile: Path | None = None) -> None:
        """Raises UsageError where the run, or a profile of it in the folder ``profile``, would write over what is not
        its own."""
        folder = self.folder.path
        names = [f"report.{kind}" for kind in ("json", "md", "html")]
        names += [] if _reads_as(folder / RECIPE, self.recipe) else [RECIPE]
        Ours(folder).check(names)
        if profile:
            Ours(profile).check(FILES)
        publication.check(folder, ["teacher", "student", *(f"student-{target.name}" for target in self.targets())])

    def _check_networks(self, problems: list[UsageError], attempt: Callable[[Callable[[], Any]], None]) -> None:
        """Each is tried alone, and then with those that it learns from."""
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        broken: dict[str, list[Role]] = {}  # what is wrong, with whom
        for role, part in self.parts.items():
            for seed, network in enumerate([part.network, *part.company()]):
                key = content_hash([described(network), network.weights, part.train is None, pruned_of(network)])
                if key not in self.tried:
                    self.tried[key] = None
                    try:
                        try_network(self, role, network, seed)
                    except UsageError as error:
                        self.tried[key] = error
                if wrong := self.tried[key]:
                    broken.setdefault(str(wrong), []).append(role)
        problems += [UsageError(f"{', '.join(dict.fromkeys(roles))}: {text}") for text, roles in broken.items()]
        out = {role for roles in broken.values() for role in roles}
        for role, part in self.parts.items():
            if out.isdisjoint((role, *part.after())):
                attempt(partial(self._with_company if part.train else self.network, role))
            if part.train:
                attempt(partial(check_optimizer, part.train, part.kinds, processes))

    def _with_company(self, role: Role) -> None:
        for method in self.distillation(role).auxiliary().values():
            if method.note:
                say_once(f"{role}: {method.note}", "yellow")

    def _check_exports(self, problems: list[UsageError]) -> None:
        """What ships is exported before a training, once for a run's folder."""
        states = dict(self.plan())
        self.done.clear()
        trains = any(part.train and states[role] == "to do" for role, part in self.parts.items())
        if not trains:
            return
        known = passed(self.folder.path)
        roles = [role for role in self.shipped() if states[f"{role}-fp32"] == "to do"]
        keys = {role: key for role in roles if (key := exports_key(self, role)) not in known}
        problems += try_exports(self, list(keys))
        if not problems:
            self.passed += keys.values()

    def remember(self) -> None:
        """What the pre-flight let through, in the run's folder."""
        if self.passed:
            known = [*passed(self.folder.path), *self.passed]
            write_text(self.folder.path / RECORD, json.dumps(list(dict.fromkeys(known))))

    # The steps

    def shipped(self) -> list[Shipped]:
        """The networks that are exported and measured. A teacher that knows private images is not."""
        return [role for role in get_args(Shipped) if role in self.parts and not (self.secret and role == "teacher")]

    @property
    def secret(self) -> bool:
        """Whether the teachers know private images."""
        return any(kind.private for kind in self.parts["student"].kinds)

    def steps(self) -> list[Step]:
        steps = [self._train_step(role) for role in self.parts]
        for role in self.shipped():
            steps += [self._export_step(role), self._check_step(role, f"{role}-fp32", may_fail=role == "teacher")]
        for target in self.targets():
            check = self._check_step("student", f"student-{target.name}", target.runtime, may_fail=True)
            steps += [self._target_step(target), check]
        return steps

    def _train_step(self, role: Role) -> Step:
        part, augment = self.parts[role], self.recipe.data.augment
        after, model = part.after(), named(part.network)

        def work(folder: Path) -> dict[str, Any]:
            if part.train is None:
                net = self.untrained(role)
                if is_main_process():
                    metadata = {"role": role, "model": model} | self.kept_facts(role)
                    save_weights(net, folder / "weights.safetensors", metadata)
                return {"role": role, "model": model, "parameters": count_parameters(net), "history": []}
            distillation = self.distillation(role)
            facts: dict[str, Any] = {
                "role": role,
                "model": model,
                "method": " + ".join(part.method),
                "auxiliary_parameters": count_parameters(distillation.methods),
            }
            with TrainingProgress(role) as progress:
                profile = self.profile if role == "student" else None
                source, seed = self.trained_on(role), part.seed
                trained = train(distillation, source, part.train, augment, seed, folder, progress, profile)
            if not is_main_process():
                return facts
            metadata = {key: facts[key] for key in ("role", "model", "method")} | self.kept_facts(role)
            other = "last" if trained.selected == "best" else "best"
            net = distillation.student.net.cpu()
            for kind, name in ((other, other), (trained.selected, "weights")):
                net.load_state_dict(getattr(trained, f"{kind}_weights"))
                ships = distillation.deployable()
                save_weights(ships, folder / f"{name}.safetensors", metadata)
            (folder / "checkpoint.pt").unlink(missing_ok=True)
            for method in distillation.auxiliary().values():
                facts |= method.report()
            ships = self.as_it_ships(role, ships)
            facts["parameters"] = count_parameters(ships)
            facts["macs"] = self.macs(role, ships)
            if whole := pruned_of(part.network):
                net = self.network(whole)
                facts["pruned_from"] = {"parameters": count_parameters(net), "macs": self.macs(whole, net)}
            return facts | trained.record()

        def stage(done: dict[str, Done]) -> Stage:
            params = {
                "network": described(part.network),
                "train": part.train and part.train.deciding(),
                "augment": augment.model_dump(),
                "method": part.method,
                "seed": part.seed,
                "peers": [described(peer) for peer in part.company()],
            }
            inputs = {"data": self.trained_on(role).hash, **{earlier: done[earlier].hash for earlier in after}}
            for index, network in enumerate([part.network, *part.company()]):
                if network.weights:
                    inputs[f"weights-{index}"] = _file_hash(network.weights)
                if ":" in network.model:
                    inputs[f"code-{index}"] = code_hash(network.model)
            inputs |= {f"code-{name}": code_hash(name) for name in part.method if ":" in name}
            packages = ("torch", "torchvision", "timm", *(["torch-pruning"] if pruned_of(part.network) else []))
            return Stage(role, work, params, inputs, packages, resumes=True, collective=True)

        return Step(role, after, stage)

    def kept_facts(self, role: Role) -> dict[str, str]:
        """What a file of weights says of what goes into its network and comes out."""
        spec = self.spec(role)
        return {key: json.dumps(getattr(spec, key), ensure_ascii=False) for key in ("labels", "mean", "std")}

    def deployable(self, role: Role, net: torch.nn.Module | None = None) -> Deployable:
        """``net``, else the trained network of a finished step, on the CPU, as it ships."""
        net = self.as_it_ships(role, self.network(role) if net is None else net)
        return Deployable(net, self.spec(role), self.parts[role].network.size).eval()

    def as_it_ships(self, role: Role, net: torch.nn.Module) -> torch.nn.Module:
        """With its blocks' branches merged."""
        return merged(net, self.member(role, net).input(self.example()))

    def _export_step(self, role: Role) -> Step:
        export = self.recipe.export
        name = f"{role}-fp32"

        def work(folder: Path) -> dict[str, Any]:
            metadata = {
                "recipe": self.recipe.name,
                "role": role,
                "model": named(self.parts[role].network),
                "source_hash": self.source.hash,
                "normalisation": self.normalisation(role)[2],
                # of the file alone: the stage's hash is one of the teachers' data too
                "weights": sha256(self.done[role].folder / "weights.safetensors"),
            }
            module = self.deployable(role)
            path = folder / f"{role}.onnx"
            artifact = export_onnx(module, module.spec, path, opset=export.opset, metadata=metadata)
            return _recorded(artifact)

        def stage(done: dict[str, Done]) -> Stage:
            params = {"layout": export.layout, "batch": export.batch, "opset": export.opset, "branches": "merged"}
            packages = ("torch", "onnx", "onnxscript")
            return Stage(name, work, params, {role: done[role].hash}, packages)

        return Step(name, (role,), stage, may_fail=role == "teacher")

    def calibration(self) -> np.ndarray:
        """Training images for the quantiser's ranges, uint8 [N, H, W, C]."""
        return calibration_images(self.source.train.images, self.recipe.export.calibration_images)

    def artifact(self, name: str) -> Artifact:
        done = self.done[name]
        return Artifact.from_json(done.result["artifact"], done.folder)

    def targets(self) -> list[formats.Target]:
        return formats.chosen(self.recipe.export.targets)

    def _target_step(self, target: formats.Target) -> Step:
        name, writer = f"student-{target.name}", formats.writers[target.writer]

        export = self.recipe.export
        climbs = target.precision == "int8" and formats.availability(target)[1]

        def work(folder: Path) -> dict[str, Any]:
            parent = self.artifact("student-fp32")
            job = formats.ExportJob(self.deployable("student"), parent, self.calibration(), folder, "student")
            if not climbs:
                return _recorded(formats.build(job, target))
            distil = partial(self.quantization_aware, job) if export.qat and not self.secret else None
            artifact = climb(job, target, self.validation_accuracy, export.max_drop, distil)
            remove(folder / "learning")
            if artifact.provenance["parent"] == parent.sha256:  # not of a student that learnt to be quantised
                remove(folder / QAT_WEIGHTS)
            return _recorded(artifact)

        def stage(done: dict[str, Done]) -> Stage:
            params: dict[str, Any] = {"target": target.model_dump(mode="json"), "images": export.calibration_images}
            inputs = {"parent": done["student-fp32"].hash, "data": self.source.hash}
            if climbs:
                params |= {"max_drop": export.max_drop, "qat": export.qat and export.qat.deciding()}
                inputs |= {"weights": done["student"].hash}
            packages = ("torch", "onnx", "onnxruntime", *writer.packages)
            return Stage(name, work, params, inputs, packages, resumes=climbs)

        return Step(name, ("student-fp32",), stage, may_fail=True, available=writer.check)

    def validation_accuracy(self, artifact: Artifact) -> float:
        """Per cent of the validation images, by the file in its own runtime."""
        split = self.source.validation
        with formats.open_runner(artifact, threads=torch.get_num_threads()) as runner:
            return 100.0 * float((infer_all(runner, split.images, artifact.input)[0].argmax(1) == split.labels).mean())

    def quantization_aware(self, job: formats.ExportJob, scheme: formats.Scheme) -> formats.ExportJob:
        """The job with a student that has learnt to be quantised: trained further with weights and activations as they
        are in ``scheme``, from the teacher, or from itself where there is none. Its weights are kept beside what is
        built from it."""
        student, qat, folder = self.parts["student"], self.recipe.export.qat, job.folder / "learning"
        assert qat is not None
        guide = next(iter(student.teachers), "student")
        spec = self.spec("student")
        distillation = Distillation(
            Member(self.deployable("student").net, spec.mean, spec.std, size=student.network.size),
            [self.member(guide, self.network(guide))],
            {"quantized": as_in(scheme)},
            self.example(),
        )
        folder.mkdir(exist_ok=True)
        with TrainingProgress("quantisation-aware student") as progress:
            augment = self.recipe.data.augment
            trained = train(distillation, self.trained_on("student"), qat, augment, student.seed, folder, progress)
        net = distillation.student.net.cpu()
        net.load_state_dict(getattr(trained, f"{trained.selected}_weights"))
        learnt = distillation.deployable()
        facts = {"role": "student", "model": student.network.model} | self.kept_facts("student")
        save_weights(learnt, job.folder / QAT_WEIGHTS, facts)
        module = self.deployable("student", learnt)
        path = folder / job.parent.path.name
        metadata = {"recipe": self.recipe.name, "source_hash": self.source.hash}
        metadata["normalisation"] = self.normalisation("student")[2]
        parent = export_onnx(module, module.spec, path, opset=self.recipe.export.opset, metadata=metadata)
        return replace(job, module=module, parent=parent)

    def _check_step(self, role: Role, name: str, runtime: str = "onnxruntime-cpu", may_fail: bool = False) -> Step:
        """Parity with PyTorch and accuracy on the test split, by the file in its own runtime."""

        def work(folder: Path) -> dict[str, Any]:
            artifact = self.artifact(name).verified()
            spec = artifact.input
            if spec != (wanted := self.spec(role)):  # labels, say, in another order: no measurement shows that
                got = {key: value for key, value in vars(spec).items() if value != getattr(wanted, key)}
                raise KDCompressError(
                    "The artefact's record says another input or other labels than the network has.",
                    where=artifact.path,
                    got=got,
                    allowed={key: getattr(wanted, key) for key in got},
                    hint=f"build it again: --force {name}",
                )
            with formats.open_runner(artifact, threads=torch.get_num_threads()) as runner:
                module = self.deployable(role)
                if (learnt := artifact.path.with_name(QAT_WEIGHTS)).exists():
                    load_weights(module.net, learnt)
                with TorchRunner(module, spec) as reference:
                    images = self.source.validation.images[:PARITY_IMAGES]
                    agreement = parity(reference, runner, images, spec, artifact.precision)
                (logits,) = infer_all(runner, self.source.test.images, spec)
                details = runner.details()
            predictions = logits.argmax(1).astype(np.int32)
            np.save(folder / "predictions.npy", predictions)
            accuracy = 100.0 * float((predictions == self.source.test.labels).mean())
            compared: dict[str, Any] = agreement.to_json()
            parent = self.artifact(f"{role}-fp32")
            if not agreement and artifact.format == "onnx" and artifact.provenance.get("parent") == parent.sha256:
                found = steps(parent.path, artifact.path, images)
                first = first_difference(found, tolerance_of(artifact.precision))
                compared["first_difference"] = str(first) if first else None
            return {"accuracy": accuracy, "parity": compared, "runtime": details, "n": len(predictions)}

        def stage(done: dict[str, Done]) -> Stage:
            inputs = {"artifact": done[name].hash, "weights": done[role].hash, "data": self.source.hash}
            return Stage(f"check-{name}", work, {}, inputs, ("onnxruntime",))

        return Step(f"check-{name}", (name,), stage, may_fail, available=formats.runners[runtime].check)

    def _latency_stage(self) -> Stage:
        """Every file that runs here, interleaved, so that ratios hold on a machine that drifts."""
        bench = self.recipe.bench
        names = [n.removeprefix("check-") for n in self.done if n.startswith("check-")]
        if bench.device == LOCAL:
            elsewhere = {f"student-{target.name}" for target in self.targets() if not target.timed_here}
            names = [name for name in names if name not in elsewhere]
        names = [name for name in names if self._sound(name)]

        def work(folder: Path) -> dict[str, Any]:
            artifacts = {name: self.artifact(name) for name in names}
            session = time_files(artifacts, self.source.test.images[:1024], bench)
            parents = {n: "student-fp32" for n, a in artifacts.items() if a.precision == "int8"}
            return {
                "device": session.device,
                "machine": session.before,
                "records": {n: r.to_json() for n, r in session.records.items()},
                "ratios": ratios(session.records),
                "left_out": session.left_out,
                "parity": session.parity,
                "advice": advice(session.records, session.before, session.after, parents),
            }

        params = {**conditions(bench), "names": names}
        inputs = {name: self.done[name].hash for name in names}
        return Stage("latency", work, params, inputs, ("onnxruntime",))

    # Running them

    def plan(self) -> list[tuple[str, str]]:
        """(step, "done", "to do" or "not here") of each step, with nothing run or written."""
        plan: dict[str, str] = {}
        for step in self.steps():
            if not _is_available(step) or any(plan[name] == "not here" for name in step.after):
                plan[step.name] = "not here"
                continue
            ready = all(name in self.done for name in step.after)
            finished = self.folder.finished(step.stage(self.done)) if ready else None
            if finished:
                self.done[step.name] = finished
            plan[step.name] = "done" if finished else "to do"
        measured = "to do" not in plan.values() and self.folder.finished(self._latency_stage())
        return [*plan.items(), ("latency", "done" if measured else "to do")]

    def run(self, force: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Do what is not done yet and return the report's document. The folder must be held."""
        self.check_folder()
        self.remember()
        for step in self.steps():
            if any(name in self.errors for name in step.after):
                continue
            try:
                step.available()
                self._finish(step.name, step.stage(self.done), step.name in force)
            except Exception as error:
                if not step.may_fail:
                    raise
                self.errors[step.name] = error
                say(f"{step.name}: {reason(error)[0]}", style="yellow")
        self._finish("latency", self._latency_stage(), "latency" in force)
        self._publish()
        return self.document()

    def check_profile(self, force: frozenset[str] = frozenset()) -> None:
        """Raises UsageError where the student's training is not there to be profiled."""
        if self.parts["student"].train is None:
            raise UsageError("This recipe trains no student.", where="--profile")
        trained = dict(self.plan())["student"] == "done"
        self.done.clear()
        if trained and "student" not in force:
            raise UsageError(
                "The student is trained already, so that there is no training to profile.",
                where=self.folder.path,
                hint="train it again with --force student, or in another folder with --output",
            )

    def train_only(self, force: frozenset[str] = frozenset(), roles: Collection[Role] | None = None) -> None:
        """The trainings alone, all of them or those of ``roles``: what a further process of several takes part in."""
        for step in self.steps():
            if step.name in (self.parts if roles is None else roles):
                self._finish(step.name, step.stage(self.done), step.name in force)

    def make(self, name: str) -> None:
        """That step and those that it comes after, what is not done yet."""
        steps = {step.name: step for step in self.steps()}
        for earlier in steps[name].after:
            self.make(earlier)
        if name not in self.done:
            self._finish(name, steps[name].stage(self.done), False)

    def _publish(self) -> None:
        wanted: dict[str, Path] = {}
        for name, done in self.done.items():
            if "artifact" in done.result and self._sound(name):
                path = self.artifact(name).path
                wanted |= {part.name: part for part in (path, path.with_name(path.name + ".json"))}
        publication.publish(self.folder.path, wanted)

    def _sound(self, name: str) -> bool:
        """Whether the artefact is what was built. One damaged since is neither timed nor handed out, and its row says
        so."""
        try:
            self.artifact(name).verified()
        except UsageError as error:
            self.errors[f"check-{name}"] = error
            return False
        return True

    def _finish(self, name: str, stage: Stage, force: bool) -> None:
        done = self.done[name] = self.folder.run(stage, force)
        say(f"{name}: " + ("done before" if done.reused else f"done in {done.seconds:.1f} s"), style="dim")

    # The report

    def rows(self) -> list[Row]:
        rows = [self._row(role, None) for role in self.shipped()]
        parent = rows[-1]
        rows += [self._row("student", target) for target in self.targets()]
        for row in rows:
            if row.target and row.accuracy is not None and parent.accuracy is not None:
                row.drop = parent.accuracy - row.accuracy
            judge(row, self.recipe.export.max_drop)
        return rows

    def _row(self, role: Shipped, target: formats.Target | None) -> Row:
        name = f"{role}-{target.name if target else 'fp32'}"
        row = Row(
            name=name,
            role=role,
            format=target.format if target else "onnx",
            precision=target.precision if target else "fp32",
            status="measured",
            target=target.name if target else None,
        )
        row.parameters = self.done[role].result["parameters"]
        if name in self.errors:
            missing = isinstance(self.errors[name], RuntimeMissingError)
            row.status = "skipped" if missing else "failed"
            row.why, row.next = reason(self.errors[name])
            return row
        artifact = self.artifact(name)
        row.file = f"artifacts/{artifact.path.name}"
        row.sha256, row.bytes, row.precision = artifact.sha256, artifact.bytes, artifact.precision
        row.coverage = artifact.provenance.get("coverage")
        if role == "student" and self.recipe.budgets.memory is not None:
            row.memory = artifact.bytes + self._largest_layer * BYTES[artifact.precision]
        row.build_seconds = artifact.provenance.get("build_seconds", self.done[name].seconds)
        row.ladder = artifact.provenance.get("ladder")
        if (error := self.errors.get(f"check-{name}")) is not None:
            missing = isinstance(error, RuntimeMissingError)
            row.status = "built, not run" if missing else "failed"
            row.why, row.next = reason(error)
            return row
        check = self.done[f"check-{name}"].result
        row.accuracy, row.parity, row.runtime = check["accuracy"], check["parity"], check["runtime"]
        teacher, mine = self._predictions("teacher-fp32"), self._predictions(name)
        if teacher is not None and mine is not None:
            row.agreement = 100.0 * float(np.equal(mine, teacher).mean())
        latency = self.done["latency"].result
        if name in latency["left_out"]:
            row.why = f"not timed on {latency['device']}: {latency['left_out'][name]}"
        elif target and latency["device"] == LOCAL and not target.timed_here:
            row.why = f"not timed on this machine: {target.measured_on}"
        row.device_parity = latency["parity"].get(name)
        row.latency = latency["records"].get(name)
        row.ratio = latency["ratios"]["parent"].get(name)
        row.teacher_ratio = latency["ratios"]["teacher"].get(name)
        return row

    def _predictions(self, name: str) -> np.ndarray | None:
        check = self.done.get(f"check-{name}")
        return np.load(check.folder / "predictions.npy") if check else None

    def _confusion(self) -> dict[str, Any] | None:
        labels, truth = self.source.labels, self.source.test.labels
        found = {role: self._predictions(f"{role}-fp32") for role in ("teacher", "student")}
        known = {role: predictions for role, predictions in found.items() if predictions is not None}
        if len(known) < 2:
            return None
        count = len(labels)
        tables = {r: np.bincount(truth * count + p, minlength=count**2).reshape(count, count) for r, p in known.items()}
        return {"labels": list(labels), **{role: table.tolist() for role, table in tables.items()}}

    def document(self) -> dict[str, Any]:
        rows, latency = self.rows(), self.done["latency"].result
        limits = gates(self.recipe, rows) + budgets(self.recipe, rows)  # a row says where it misses one
        return {
            **provenance(self.recipe, self.command),
            "data": {
                "name": self.source.name,
                "hash": self.source.hash,
                "origin": PRIVATE if self.recipe.data.public is not None else self.source.origin,
                "licence": self.source.licence,
                "images": {s: len(getattr(self.source, s)) for s in ("train", "validation", "test")},
            },
            "rows": [row.to_json() for row in rows],
            "normalisation": {
                role: dict(zip(("mean", "std", "from"), self.normalisation(role), strict=True))
                for role in self.shipped()
            },
            "training": [self.done[role].result for role in self.parts],
            "confusion": self._confusion(),
            "margin": margin(rows),
            "gates": limits,
            "predictions": predictions(self.recipe, rows),
            "stages": [done.record() for done in self.done.values()],
            "advice": latency["advice"],
            "device": {"name": latency["device"], "machine": latency["machine"]},
        }


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


def parse_options(name: str, options: dict[str, Any]) -> None:
    """Raises UsageError for an unknown method, or options that are not its own."""
    methods[name].parse_options(name, options)


def is_main_process() -> bool:
    """False in the further processes that torchrun or `accelerate launch` starts."""
    return int(os.environ.get("RANK", "0")) == 0


def provenance(recipe: Recipe, command: str) -> dict[str, Any]:
    """What every document says of where it comes from: of private images not where they are."""
    if recipe.data.public is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": None})})
        words = [f"data.root={PRIVATE}" if w.startswith("data.root=") else w for w in shlex.split(command)]
        command = shlex.join(words)
    effective = recipe.model_dump(mode="json")
    return {
        "kdcompress": kdcompress.__version__,
        "name": recipe.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "recipe": effective,
        "recipe_yaml": recipe_yaml(recipe),
        "recipe_hash": content_hash(effective),
        "machine": machine(),
        "packages": packages(),
    }


def recipe_yaml(recipe: Recipe) -> str:
    """The effective recipe, with what stands at its default left out."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json(exclude_defaults=True)), sort_keys=False)


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Raises UsageError where another file of that name is there, which kdcompress did not write."""
    folder.mkdir(parents=True, exist_ok=True)
    if not _reads_as(folder / RECIPE, recipe):
        Ours(folder).write(RECIPE, recipe_yaml(recipe))


def _reads_as(path: Path, recipe: Recipe) -> bool:
    """Whether the file is this recipe already, however it is written."""
    try:
        return recipe_yaml(load_recipe(path)) == recipe_yaml(recipe)
    except KDCompressError:
        return False


def _is_available(step: Step) -> bool:
    try:
        step.available()
    except RuntimeMissingError:
        return False
    return True


def _recorded(artifact: Artifact) -> dict[str, Any]:
    """Write the artefact's record beside its file, for the commands that are given the file alone."""
    record = artifact.to_json()
    write_text(artifact.path.with_name(artifact.path.name + ".json"), json.dumps(record, indent=1, default=str))
    return {"artifact": record}


def reason(error: Exception) -> tuple[str, str | None]:
    """Why, and what to do next."""
    if not isinstance(error, KDCompressError):
        return cut(f"{type(error).__name__}: {error}"), None
    return error.what + (f" ({error.got})" if error.got is not None else ""), error.hint


def _file_hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise UsageError("The weights cannot be read.", where=path, got=error.strerror) from error
