"""What can be known of a recipe's networks before anything trains.

Each network is run at its real input size, trained for a step, and copied as at the end of its training. One that ships
is exported untrained, and each target's writer is tried on the file, as long as a budget of time lasts. Errors of
conversion count, and no numbers: those of a network that nobody trained mean nothing. Random states stay as they were.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from kdcompress import __version__
from kdcompress.artifact import content_hash, write_text
from kdcompress.bench.machine import packages
from kdcompress.console import say
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError, cause, first_cause, place, told
from kdcompress.export import formats, regions
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.answers import Answer, Dense, answer_of, class_logits, shipped
from kdcompress.models.answers import described as outputs_that_ship
from kdcompress.models.copying import copied
from kdcompress.models.evaluating import evaluating
from kdcompress.own_code import is_own
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role, described, named, pruned_of
from kdcompress.pipelines.user_code import code_hash
from kdcompress.recipe import Network
from kdcompress.training.precision import on_gpu

T = TypeVar("T")
RECORD = "preflight.json"  # in a run's folder: what has passed
SECONDS = 60.0  # no further writer is begun after so many
IMAGES = 16  # for the quantisers' ranges
SIZE_OPTIONS = ("img_size", "image_size", "input_size")  # of factories and of the networks that they make


@contextmanager
def random_states_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if (device := _device()).type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _device() -> torch.device:
    """That of this process's trainings."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu() else torch.device("cpu")


# Every network


def try_network(networks: Networks, role: Role, network: Network, seed: int = 0) -> None:
    """Build it, run it, train it for a step where it is trained, and copy it. Raises UsageError."""
    net, trains = networks.untrained(role, network, seed), networks.parts[role].train is not None
    x = networks.input(role, net, network)
    try:
        answer = _run(net, x)
    except (KDCompressError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UsageError(
            f"{named(network)} does not run on these images.",
            where=place(error) or network.model,
            got=f"{cause(error)}; images [N, {', '.join(map(str, x.shape[1:]))}]",
            hint=_remedy(networks, role, network, net),
        ) from error
    if trains or role == "student":
        _check_answer(networks, role, network, answer)
    if trains:
        with told(f"{named(network)} runs, but an iteration of its training fails.", where=network.model):
            outputs = shipped(answer_of(net.to(_device()).train()(x.to(_device()))))
            torch.stack([output.sum() for output in outputs]).sum().backward()
    copied(net)


def _check_answer(networks: Networks, role: Role, network: Network, answer: Answer) -> None:
    """Raises UsageError where it is not one of the task's, for the source's labels and images."""
    labels, count = networks.spec(role, network).labels, class_logits(answer).shape[-1]
    if count != len(labels):
        raise UsageError(
            f"{named(network)} does not give one logit per label.",
            where=network.model,
            got=f"{count} logits",
            allowed=f"{len(labels)}, as its callable gets in `classes`",
        )
    outputs_that_ship(answer, networks.task, labels)
    if isinstance(answer, Dense) and answer.logits.ndim == 3 and network.size:  # boxes, not class maps
        what, hint = "A detector's boxes are in the pixels of the data's images.", "set data.size instead"
        raise UsageError(what, where=f"{_section(role, network, networks)}.size", got=network.size, hint=hint)


def _run(net: nn.Module, x: Tensor) -> Answer:
    with evaluating(net), torch.no_grad():
        return answer_of(net(x))


def _remedy(networks: Networks, role: Role, network: Network, net: nn.Module) -> str | None:
    """The options with which it runs: each that is named was tried."""
    if pruned_of(network):
        return None
    height, width, _ = networks.source_of(role).train.images.shape[1:]
    declared = [getattr(net, name, None) for name in SIZE_OPTIONS]
    declared.append(getattr(net, "default_cfg", {}).get("input_size"))  # timm's
    sides = [value[-1] if isinstance(value, (tuple, list)) else value for value in declared]
    section, found = f"{_section(role, network, networks)}", []
    for side in dict.fromkeys([*(side for side in sides if isinstance(side, int)), 224]):
        if _works(networks, role, network.model_copy(update={"size": side})):
            found.append(f"`{section}.size: {side}` resizes the images for it")
            break
    side = network.size or height
    for option in SIZE_OPTIONS if side == (network.size or width) else ():
        if _works(networks, role, network.model_copy(update={"options": {**network.options, option: side}})):
            found.append(f"`{section}.options: {{{option}: {side}}}` makes it for their size")
            break
    return ", or ".join(found) or "look at what the network asks of its input, and at `size` and `options`"


def _section(role: Role, network: Network, networks: Networks) -> str:
    """Of the recipe."""
    if network is not networks.parts[role].network:
        return "peers"
    return {"generation": "student", "assistant": "assistants"}.get(kind := role.partition("-")[0], kind)


def _works(networks: Networks, role: Role, network: Network) -> bool:
    try:
        net = networks.untrained(role, network)
        _run(net, networks.input(role, net, network))
        return True
    except (Exception, SystemExit):
        return False


# Those that ship


def try_exports(networks: Networks, roles: Sequence[Role]) -> list[UsageError]:
    """Export each, and try the targets' writers on the student: the problems that would be found after the training. Of
    a teacher, and of targets that only "auto" asks for, they stop nothing then and are told now."""
    problems: list[UsageError] = []
    with tempfile.TemporaryDirectory() as folder:
        for role in sorted(roles):  # the student first
            what = f"{role} ({named(networks.parts[role].network)})"
            job, problem = _attempt(f"{what} cannot be exported", partial(_job, networks, role, Path(folder)))
            if problem and role != "teacher":
                problems.append(problem)
            elif problem:
                say(f"{role}-fp32 will fail: {problem}", style="yellow")
            if job and role == "student":
                problems += _try_writers(networks, what, job)
    return problems


def _job(networks: Networks, role: Role, folder: Path) -> formats.ExportJob:
    net = networks.distillation(role).deployable() if networks.parts[role].train else networks.untrained(role)
    images = networks.calibration(role)[: max(IMAGES, networks.recipe.export.batch or 0)]
    settle(net, networks.member(role, net).input(torch.from_numpy(images).permute(0, 3, 1, 2)))
    module, opset = networks.deployable(role, net), networks.recipe.export.opset
    parent = export_onnx(module, module.spec, folder / f"{role}.onnx", opset=opset, trained=False)
    return formats.ExportJob(module, parent, images, folder, role)


def _try_writers(networks: Networks, what: str, job: formats.ExportJob) -> list[UsageError]:
    problems, late, begun = [], [], time.monotonic()
    asked = {formats.target(name).name for name in networks.recipe.export.targets if name != formats.AUTO}
    here = [target for target in formats.chosen(networks.recipe.export.targets) if formats.availability(target)[0]]
    here.sort(key=lambda target: regions.takes(job.parent, target.format))  # a refusal takes no time: first
    for target in here:
        if target is not here[0] and time.monotonic() > begun + SECONDS:
            late.append(target.name)
            continue
        wrong, instead = f"{what} cannot be written for the target {target.name}", "leave it out of export.targets"
        _, problem = _attempt(wrong, partial(formats.build, job, target), instead, target.precision == "int8")
        if problem and target.name in asked:
            problems.append(problem)
        elif problem:
            say(f"student-{target.name} will fail: {problem}", style="yellow")
    if here:
        left = f"; not tried, to save time: {', '.join(late)}" if late else ""
        took = f"{time.monotonic() - begun:.1f} s"
        say(f"tried on the untrained student in {took}: {len(here) - len(late)} of {len(here)} writers{left}", "dim")
    return problems


def _attempt(
    wrong: str, action: Callable[[], T], instead: str | None = None, doubtful: bool = False
) -> tuple[T | None, UsageError | None]:
    """(what it gave, what would go wrong after the training too). Of an error of the machine's, a time limit, and a
    library's own error in what is ``doubtful`` nobody knows: they are told."""
    try:
        return action(), None
    except RuntimeMissingError:
        return None, None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        ours = error if isinstance(error, KDCompressError) else None
        why = ours.what if ours else cause(error)
        unlucky = isinstance(first_cause(error), (OSError, MemoryError, subprocess.TimeoutExpired))
        if unlucky or (doubtful and not ours):
            say(f"{wrong} before its training, and perhaps not after it either: {why}", style="yellow")
            return None, None
        hint = "; or ".join(part for part in (ours and ours.hint, instead) if part)
        return None, UsageError(f"{wrong}: {why}", where=place(error), got=ours and ours.got, hint=hint or None)


@torch.no_grad()
def settle(net: nn.Module, x: Tensor) -> None:
    """Give a network that nobody has trained the batch-norm statistics of a normalised batch ``x`` [N, C, H, W]: its
    activations then have the range that a quantiser expects. A normalisation that starts at zero, which would silence
    its branch, is set to one."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches: here of one
        if norm.weight is not None and not norm.weight.any():
            nn.init.ones_(norm.weight)
    net.train()(x)
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


# What has passed


def exports_key(networks: Networks, role: Role) -> str:
    """Of all that decides how ``try_exports`` ends for this one."""
    part, student = networks.parts[role], role == "student"
    targets = [target.model_dump(mode="json") for target in formats.chosen(networks.recipe.export.targets)]
    return content_hash(
        {
            "network": [described(part.network), part.method],
            "code": [code_hash(name) for name in (part.network.model, *part.method) if is_own(name)],
            "spec": networks.spec(role).to_json(),
            "opset": networks.recipe.export.opset,
            "outputs": networks.recipe.export.outputs,
            "targets": targets if student else [],
            "packages": {"kdcompress": __version__, **packages()},
        }
    )


def passed(folder: Path) -> list[str]:
    """Keys of what has passed in this run's folder."""
    try:
        found = json.loads((folder / RECORD).read_text())
        return [key for key in found if isinstance(key, str)]
    except (OSError, ValueError, TypeError):  # none yet, or damaged: it is tried again
        return []


def remember(folder: Path, keys: Sequence[str]) -> None:
    """Adds to what has passed in this run's folder."""
    write_text(folder / RECORD, json.dumps(list(dict.fromkeys([*passed(folder), *keys]))))
