"""Section 3: images a second of the engine's step and of the plain PyTorch loop, in turns.

Both make the images' views on the device, show them to the teacher and to the student, and update the student. Neither
looks at a loss inside a block. ``cudnn.benchmark`` is off in both, as PyTorch comes; in fp32 both may use TF32.
"""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from training import AUGMENT, distillation, plain_losses, synthetic, train_options

from kdcompress.bench.record import Record, paired_ratio
from kdcompress.data.feed import Feed
from kdcompress.data.splits import Source
from kdcompress.training.compiling import leave_uncompiled, step_begins
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.losses import Losses
from kdcompress.training.precision import choose_precision
from kdcompress.training.profile import Clock
from kdcompress.training.setup import accelerated, compiled, set_up
from kdcompress.training.update import Update
from on_gpu.kept import Section, peak_from_here, peak_mib, settled
from on_gpu.machine import settings

PROGRESS = 0.5  # share of the training at which the steps are: no method is still warming up
STEPS = 2_000_000  # of the training that is not ended
ROUNDS, FEWEST = 15, 11  # blocks of each variant; the fewest that support an interval
BLOCK_SECONDS = 0.1
OURS, PLAIN = "kdcompress", "plain loop"

Block = Callable[[int], float]  # steps -> milliseconds a step


@dataclass(frozen=True)
class Setting:
    precision: str
    channels_last: bool = False
    compile: str = "off"

    def overrides(self, batch: int) -> list[str]:
        return [
            f"train.batch_size={batch}",
            f"train.images={STEPS * batch}",
            f"train.precision={self.precision}",
            f"train.channels_last={str(self.channels_last).lower()}",
            f"train.compile={self.compile}",
            "train.teacher_cache=off",
        ]


SETTINGS = {
    "fp32 (TF32)": Setting("fp32"),
    "bf16": Setting("bf16"),
    "bf16, channels_last": Setting("bf16", True),
    "bf16, channels_last, compiled": Setting("bf16", True, "default"),
    "bf16, channels_last, CUDA graphs": Setting("bf16", True, "reduce-overhead"),
}
EAGER, COMPILED = list(SETTINGS)[:3], list(SETTINGS)[2:]


@dataclass(frozen=True)
class Cell:
    method: str
    pair: tuple[str, str]  # teacher, student
    size: int
    batch: int
    images: int
    classes: int
    settings: tuple[str, ...]


SMALL, LARGE = ("resnet32x4", "resnet8x4"), ("torchvision/resnet34", "torchvision/resnet18")


def cells(tiny: bool) -> list[Cell]:
    """In the order of how much each says: what finds no time is the last."""
    if tiny:
        pair = ("resnet14", "resnet8")
        return [
            Cell("none", pair, 32, 8, 64, 10, ("fp32 (TF32)",)),
            Cell("reviewkd", pair, 32, 8, 64, 10, ("fp32 (TF32)", "bf16, channels_last")),
        ]
    methods, sizes = ("kd", "none", "reviewkd"), ((SMALL, 32, 64, 50_000), (SMALL, 32, 512, 50_000))
    sizes += ((LARGE, 224, 64, 2_000),)
    found = [
        Cell(method, pair, size, batch, images, 100, tuple(EAGER))
        for method in methods
        for pair, size, batch, images in sizes
    ]
    return found + [Cell("kd", pair, size, batch, images, 100, tuple(COMPILED)) for pair, size, batch, images in sizes]


def measure(section: Section) -> None:
    torch.set_float32_matmul_precision("high")  # TF32 for matrices, as cuDNN's convolutions may use it already
    section.tell(settings=settings())
    source: Source | None = None
    asked = cells(section.tiny)
    for done, cell in enumerate(asked):
        spent = section.seconds - section.left
        if done and section.left < 1.3 * spent / done * (2 if "compiled" in str(cell.settings) else 1):
            section.tell(left_out=[f"{c.method}, {c.size} x {c.size}, batch {c.batch}" for c in asked[done:]])
            return
        if source is None or source.train.images.shape[:2] != (cell.images, cell.size):
            source = synthetic(cell.images, cell.size, cell.classes)
        for row in measured(cell, source, section):
            section.add(**row)
        gc.collect()
        if section.device.type == "cuda":
            torch.cuda.empty_cache()


def measured(cell: Cell, source: Source, section: Section) -> list[dict[str, Any]]:
    """A row for each setting of each loop. All of them take turns, in an order drawn anew each round."""
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    blocks: dict[tuple[str, str], Block] = {}
    with ExitStack() as stack:
        for name in cell.settings:
            for loop, made_by in ((PLAIN, plain_steps), (OURS, our_steps)):
                before = peak_from_here(section.device)
                made = distillation(cell.method, cell.pair, source)
                block, said = stack.enter_context(made_by(made, source, SETTINGS[name], cell.batch, section.device))
                block(3)  # CUDA graphs are recorded in the second and replayed from the third on
                facts[loop, name] = {"compiled": said, "peak_mib": peak_mib(section.device, before)}
                blocks[loop, name] = block
        samples = in_turns(blocks, *((2, 0.0) if section.tiny else (ROUNDS, BLOCK_SECONDS)))
    return rows(cell, samples, facts)


def in_turns(blocks: dict[Any, Block], rounds: int, seconds: float, seed: int = 0) -> dict[Any, list[float]]:
    """Milliseconds a step of each, in the order of the rounds; a block takes about so many seconds."""
    steps = {name: max(1, min(50, round(1e3 * seconds / block(2)))) for name, block in blocks.items()}
    samples: dict[Any, list[float]] = {name: [] for name in blocks}
    names, rng = list(blocks), np.random.default_rng(seed)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for place in rng.permutation(len(names)):
                samples[names[place]].append(blocks[names[place]](steps[names[place]]))
    finally:
        gc.enable()
    return samples


def rows(cell: Cell, samples: dict[tuple[str, str], list[float]], facts: Any) -> list[dict[str, Any]]:
    """``times_faster``: the plain loop's time over this one's, of the same setting; ``times_first``: that of the plain
    loop in the cell's first setting. Above 1, this one is faster."""
    records = {
        key: Record(f"{key}", "training", cell.batch, n=len(ms), median_ms=statistics.median(ms), samples_ms=ms)
        for key, ms in samples.items()
    }
    first = records[PLAIN, cell.settings[0]]
    what = {"method": cell.method, "teacher": cell.pair[0], "student": cell.pair[1]}
    what |= {"size": cell.size, "batch": cell.batch}
    return [
        {
            **what,
            "loop": loop,
            "setting": setting,
            **facts[loop, setting],
            "n": record.n,
            "step_ms": record.median_ms,
            "images_per_second": 1e3 * cell.batch / record.median_ms,
            "times_faster": paired_ratio(records[PLAIN, setting], record) if loop != PLAIN else None,
            "times_first": paired_ratio(first, record) if record is not first else None,
            "samples_ms": record.samples_ms,
        }
        for (loop, setting), record in records.items()
    ]


@contextmanager
def our_steps(
    made: Distillation,
    source: Source,
    setting: Setting,
    batch: int,
    device: torch.device,
    fed: Callable[[Feed], Feed] = lambda feed: feed,
) -> Iterator[tuple[Block, str]]:
    """The engine's own steps: its loader's views, its update, its losses, which are looked at once a block. Validation
    and checkpoints are in none. Also says what torch.compile does. ``fed`` may change what the steps are fed."""
    options = train_options(setting.overrides(batch))
    accelerator = accelerated(choose_precision(options.precision))
    with set_up(made, source.train, options, AUGMENT, 0, accelerator) as setup:
        said = compiled(setup, options, 0)
        feed, clock = fed(setup.feed), Clock({})
        losses, update = Losses(feed, setup.steps, clock), Update(setup, options, clock)
        begin = round(PROGRESS * setup.steps)
        batches, numbers = feed.batches(begin), itertools.count(begin)
        setup.module.train()

        def block(steps: int) -> float:
            settled(device)
            begun = perf_counter()
            for step in itertools.islice(numbers, steps):
                given = next(batches)
                step_begins(options.compile)
                losses.add(step, update(step, given))
            losses.look()
            settled(device)
            return 1e3 * (perf_counter() - begun) / steps

        try:
            yield block, said
        finally:
            batches.close()


@contextmanager
def plain_steps(
    made: Distillation, source: Source, setting: Setting, batch: int, device: torch.device
) -> Iterator[tuple[Block, str]]:
    """What one writes without a library: forward of the teacher and of the student, the loss, backward and a step."""
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    teacher, student = made.teacher, made.student.to(device, memory_format=layout)
    beside, loss_of = plain_losses(made, len(source.train))
    beside = beside.to(device, memory_format=layout)
    if teacher is not None:
        teacher.to(device, memory_format=layout)
    students: list[Member] = [student] + ([teacher] if teacher is not None else [])
    for member in students if setting.compile != "off" else ():
        member.compile(mode=setting.compile, dynamic=False)
    options = train_options(setting.overrides(batch))
    parameters = [*student.net.parameters(), *beside.parameters()]
    optimizer = torch.optim.SGD(parameters, options.lr, options.momentum, weight_decay=options.weight_decay)
    images = torch.from_numpy(source.train.images).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(source.train.truth).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16) if setting.precision == "bf16" else nullcontext()
    generator = torch.Generator(device).manual_seed(0)
    made.train()

    def step() -> None:
        index = torch.randint(len(images), (batch,), device=device, generator=generator)
        x = cropped_and_flipped(images[index], AUGMENT.crop, generator).contiguous(memory_format=layout)
        y = labels[index]
        step_begins(setting.compile)
        optimizer.zero_grad()
        with autocast:
            with torch.no_grad():
                theirs = teacher(x) if teacher is not None else None
            loss = loss_of(student(x), theirs, y, index, None, PROGRESS)
        loss.backward()
        optimizer.step()

    def block(steps: int) -> float:
        settled(device)
        begun = perf_counter()
        for _ in range(steps):
            step()
        settled(device)
        return 1e3 * (perf_counter() - begun) / steps

    try:
        yield block, setting.compile
    finally:
        leave_uncompiled(made)


def cropped_and_flipped(images: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """[N, C, H, W]: each image shifted by up to ``crop`` pixels, zeros moving in, and perhaps mirrored."""
    (n, channels, height, width), device = images.shape, images.device
    moved = torch.randint(2 * crop + 1, (2, n, 1), device=device, generator=generator)
    flip = torch.rand((n, 1), device=device, generator=generator) < 0.5
    across, down = torch.arange(width, device=device), torch.arange(height, device=device)
    rows, columns = moved[0] + down, moved[1] + torch.where(flip, across.flip(0), across)
    padded, which = F.pad(images, (crop,) * 4), torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]
