"""How fast this machine trains a recipe's networks: some real steps of each, timed in several short blocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kdcompress.models.taps import Taps
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Role
from kdcompress.pipelines.preflight import random_states_kept
from kdcompress.training.checkpoint import save_checkpoint
from kdcompress.training.evaluation import predict
from kdcompress.training.losses import Losses
from kdcompress.training.memory import freed_memory_kept
from kdcompress.training.precision import choose_precision
from kdcompress.training.profile import Clock
from kdcompress.training.result import TrainResult
from kdcompress.training.setup import accelerated, set_up
from kdcompress.training.state import State
from kdcompress.training.update import Update

ROUNDS = 2  # blocks of each network, in turns with the others'
WARM = 2  # steps of a block that are not counted
LEAST, MOST = 3, 40  # steps of a block that are


@dataclass(frozen=True)
class Speed:
    """Seconds of: a step, of a batch whose teacher's answers are known; the teacher's answers to a batch; the answer to
    an image of another split; and what an epoch's end takes beside those."""

    step: float
    teacher: float
    image: float
    end: float


def measured(networks: Networks, roles: Sequence[Role], seconds: float) -> dict[Role, Speed]:
    """Of each network's training, within about so many seconds for all, in medians. Nothing is left behind: random
    states stay as they were."""
    blocks: dict[Role, list[list[tuple[float, ...]]]] = {role: [] for role in roles}
    each = seconds / (ROUNDS * len(roles))
    with random_states_kept(), freed_memory_kept(), TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for role in roles:
                blocks[role].append(_block(networks, role, each, Path(folder)))
    found = {}
    for role, timed in blocks.items():
        steps = [step for block in timed for step in block]
        step, teacher, image, end = (statistics.median(values) for values in zip(*steps))
        found[role] = Speed(step, teacher, image, end)
    return found


def _block(networks: Networks, role: Role, seconds: float, folder: Path) -> list[tuple[float, ...]]:
    """The four times of a ``Speed`` for each step of a block; the last two are the block's."""
    part, source = networks.parts[role], networks.source
    assert part.train is not None
    distillation = networks.distillation(role)
    accelerator = accelerated(choose_precision(part.train.precision))
    with set_up(distillation, source.train, part.train, networks.recipe.data.augment, part.seed, accelerator) as setup:
        losses = Losses(setup.loader, setup.steps, clock := Clock({}))
        update = Update(setup, part.train, clock)
        setup.module.train()
        times: list[tuple[float, float]] = []
        begun = time.perf_counter()
        while len(times) < WARM + LEAST or (time.perf_counter() - begun < seconds and len(times) < WARM + MOST):
            batch = setup.loader.batch_at(len(times))
            answers, teacher = None, 0.0
            if distillation.teachers:
                start = _now(accelerator.device)
                answers = [_answers(member, batch.x, accelerator) for member in distillation.teachers]
                teacher = _now(accelerator.device) - start
            start = time.perf_counter()
            batch = setup.loader.batch_at(len(times))
            losses.add(len(times), update(len(times), batch, answers))
            losses.look()  # waits for the device
            times.append((time.perf_counter() - start, teacher))
        start = time.perf_counter()
        with accelerator.autocast():
            predict(distillation.student, source.validation, accelerator.device, part.train.channels_last)
        image = (time.perf_counter() - start) / len(source.validation)
        start = time.perf_counter()
        result, net = TrainResult(), distillation.student.net
        result.validated(0.0, 0.0, {key: value.detach().cpu().clone() for key, value in net.state_dict().items()})
        save_checkpoint(State(setup, losses, result, None).after(len(times)), folder / "checkpoint.pt")
        end = time.perf_counter() - start
    return [(*each, image, end) for each in times[WARM:]]


def _answers(member: torch.nn.Module, x: torch.Tensor, accelerator: object) -> Taps:
    with torch.no_grad(), accelerator.autocast():  # type: ignore[attr-defined]
        taps: Taps = member(x)
        return taps


def _now(device: torch.device) -> float:
    """Once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
