"""How fast this machine trains a recipe's networks: some real steps of each, timed in several short blocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

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


@dataclass(frozen=True)
class Took:
    """Seconds, and those of them that this process computed."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Block:
    steps: list[Took]
    teacher: list[Took]
    image: Took
    end: Took


def measured(networks: Networks, roles: Sequence[Role], seconds: float) -> dict[Role, Speed]:
    """Of each network's training, within about so many seconds for all. Nothing is left behind: random states stay as
    they were."""
    blocks: dict[Role, list[Block]] = {role: [] for role in roles}
    each = seconds / (ROUNDS * len(roles))
    with random_states_kept(), freed_memory_kept(), TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for role in roles:
                blocks[role].append(_block(networks, role, each, Path(folder)))
    return speeds(blocks, by_cpu=not torch.cuda.is_available())


def speeds(blocks: Mapping[Role, Sequence[Block]], by_cpu: bool) -> dict[Role, Speed]:
    """Medians. On a processor, of what this process computed, times the seconds that a second of it takes where nobody
    disturbs: fewer, the better threads share the work, which those of a small network do less well. All of it is slowed
    by as much as all blocks together were: a second in which others compute falls on one network alone."""
    timed = [[t for block in each for t in block.steps] for each in blocks.values()]
    timed += [[t for block in each for t in block.teacher] for each in blocks.values()]
    undisturbed = sum(_pace(each) * sum(t.cpu for t in each) for each in timed)
    slower = sum(t.wall for each in timed for t in each) / max(undisturbed, 1e-9)

    def of(each: Sequence[Took]) -> float:
        if not by_cpu:
            return statistics.median(t.wall for t in each)
        return slower * _pace(each) * statistics.median(t.cpu for t in each)

    return {
        role: Speed(
            of([took for block in each for took in block.steps]),
            of([took for block in each for took in block.teacher]),
            of([block.image for block in each]),
            statistics.median(block.end.wall for block in each),
        )
        for role, each in blocks.items()
    }


def _pace(each: Sequence[Took]) -> float:
    """Seconds that a second of this process's computing takes where it is least disturbed."""
    return min(t.wall / max(t.cpu, 1e-9) for t in each)


class _Stopwatch:
    """Begins when it is made; the device has done what it was given before."""

    def __init__(self, device: torch.device):
        self.device = device
        self.begun = self._now()

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()

    def read(self, count: int = 1) -> Took:
        wall, cpu = self._now()
        return Took((wall - self.begun[0]) / count, (cpu - self.begun[1]) / count)


def _block(networks: Networks, role: Role, seconds: float, folder: Path) -> Block:
    part, source = networks.parts[role], networks.source
    assert part.train is not None
    distillation = networks.distillation(role)
    accelerator = accelerated(choose_precision(part.train.precision))
    device = accelerator.device
    with set_up(distillation, source.train, part.train, networks.recipe.data.augment, part.seed, accelerator) as setup:
        losses = Losses(setup.feed, setup.steps, clock := Clock({}))
        update = Update(setup, part.train, clock)
        setup.module.train()
        steps: list[Took] = []
        teacher: list[Took] = []
        begun = time.perf_counter()
        while len(steps) < WARM + LEAST or (time.perf_counter() - begun < seconds and len(steps) < WARM + MOST):
            x, answers, watch = setup.loader.batch_at(len(steps)).x, None, _Stopwatch(device)
            if distillation.teachers:
                with torch.no_grad(), accelerator.autocast():
                    answers = [member(x) for member in distillation.teachers]
            teacher.append(watch.read())
            watch = _Stopwatch(device)
            losses.add(len(steps), update(len(steps), setup.loader.batch_at(len(steps)), answers))
            losses.look()
            steps.append(watch.read())
        watch = _Stopwatch(device)
        with accelerator.autocast():
            predict(distillation.student, source.validation, device, networks.task, part.train.channels_last)
        image = watch.read(len(source.validation))
        watch, result, net = _Stopwatch(device), TrainResult(), distillation.student.net
        for score in (1.0, 0.0):  # the best weights are not the last, as mostly: a checkpoint has both
            result.validated(0.0, score, {key: value.detach().cpu().clone() for key, value in net.state_dict().items()})
        save_checkpoint(State(setup, losses, result, []).after(len(steps)), folder / "checkpoint.pt")
        return Block(steps[WARM:], teacher[WARM:], image, watch.read())
