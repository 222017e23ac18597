"""Section 4: views made on the device, what the input costs a step, and the teacher's kept answers."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from training import AUGMENT, distillation, synthetic, train_options

from kdcompress.bench.record import Record, paired_ratio
from kdcompress.data.feed import Feed
from kdcompress.data.loader import Loader
from kdcompress.data.splits import Source
from kdcompress.recipe import Augment
from kdcompress.training.engine import train
from on_gpu.kept import Section, peak_from_here, peak_mib, settled
from on_gpu.training import BLOCK_SECONDS, OURS, ROUNDS, SETTINGS, Block, in_turns, our_steps

VIEWS = {
    "crop, flip": Augment(crop=4, flip=True),
    "resized crop, flip": Augment(resized_crop=0.25, flip=True),
    "flip, TrivialAugment": Augment(flip=True, trivial="all"),
}
EACH_STEP, SAME, FROM_HOST = "made at each step", "one batch again and again", "images in host memory"
KEPT = Augment(crop=4, flip=True, views=1)  # one view of each image: from the second epoch on all answers are known


def measure(section: Section) -> None:
    torch.set_float32_matmul_precision("high")
    views(section)
    source = synthetic(64, 32, 10) if section.tiny else synthetic(20_000, 32, 100)
    input_of_a_step(section, source)
    answers(section, source)


def views(section: Section) -> None:
    """Images a second of batches that are made alone, without a network."""
    sizes = [(32, 16, 64)] if section.tiny else [(32, 512, 20_000), (224, 64, 1_000)]
    for size, batch, images in sizes:
        source = synthetic(images, size, 10)
        before = peak_from_here(section.device)
        blocks = {name: making(source, augment, batch, section.device) for name, augment in VIEWS.items()}
        samples = in_turns(blocks, *((2, 0.0) if section.tiny else (ROUNDS, BLOCK_SECONDS)))
        for name, ms in samples.items():
            rate = 1e3 * batch / statistics.median(ms)
            facts = {"size": size, "batch": batch, "n": len(ms), "images_per_second": rate, "samples_ms": ms}
            section.add(part="views", views=name, **facts, peak_mib=peak_mib(section.device, before))


def making(source: Source, augment: Augment, batch: int, device: torch.device) -> Block:
    batches = Loader(source.train, augment, batch, 0, device=device, channels_last=True).batches(0)

    def block(steps: int) -> float:
        settled(device)
        begun = perf_counter()
        for _ in range(steps):
            next(batches)
        settled(device)
        return 1e3 * (perf_counter() - begun) / steps

    return block


def input_of_a_step(section: Section, source: Source) -> None:
    """The engine's step, in turns with the same step on a batch that is there already: what is over is waiting."""
    setting, batch = SETTINGS["bf16, channels_last"], 8 if section.tiny else 512
    pair = ("resnet14", "resnet8") if section.tiny else ("resnet32x4", "resnet8x4")
    fed: dict[str, Callable[[Feed], Feed]] = {EACH_STEP: lambda feed: feed, SAME: Same, FROM_HOST: from_host}
    blocks: dict[str, Block] = {}
    with ExitStack() as stack:
        for name, change in fed.items():
            made = distillation("kd", pair, source)
            steps = our_steps(made, source, setting, batch, section.device, change)
            blocks[name] = stack.enter_context(steps)[0]
        samples = in_turns(blocks, *((2, 0.0) if section.tiny else (ROUNDS, BLOCK_SECONDS)))
    records = {
        name: Record(name, "input", batch, n=len(ms), median_ms=statistics.median(ms), samples_ms=ms)
        for name, ms in samples.items()
    }
    for name, record in records.items():
        ratio = paired_ratio(record, records[SAME]) if name != SAME else None
        facts = {"batch": batch, "n": record.n, "step_ms": record.median_ms, "of_the_step_without": ratio}
        section.add(part="input", input=name, loop=OURS, **facts, samples_ms=record.samples_ms)


class Same(Feed):
    """Feeds the first batch again and again."""

    def __init__(self, feed: Feed):
        super().__init__(**vars(feed))

    def batches(self, step: int = 0) -> Any:
        yield from repeat(self.loader.batch_at(step))


def from_host(feed: Feed) -> Feed:
    """The same batches of images that stay in host memory, read ahead by threads."""
    own = feed.loader
    loader = Loader(
        own.split, AUGMENT, own.batch_size, own.seed, own.device, channels_last=own.channels_last, memory_limit=0
    )
    return replace(feed, loader=loader)


def answers(section: Section, source: Source) -> None:
    """A whole training by ``kd`` whose teacher's answers are kept, and one whose teacher runs at each step; then the
    first again, in which every answer is known."""
    epochs, batch = (2, 16) if section.tiny else (3, 512)
    pair = ("resnet14", "resnet8") if section.tiny else ("resnet32x4", "resnet8x4")
    runs = {"kept, first training": "exact", "the teacher runs at each step": "off", "kept, a later training": "exact"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDCOMPRESS_TEACHER_CACHE"] = str(Path(folder, "teachers"))
        for number, (name, mode) in zip(count(), runs.items()):
            made = distillation("kd", pair, source)
            options = train_options(
                [f"train.epochs={epochs}", f"train.batch_size={batch}", f"train.teacher_cache={mode}"]
            )
            before = peak_from_here(section.device)
            result = train(made, source, options, KEPT, 0, Path(folder, f"run{number}"))
            kept = result.teacher_cache
            asked = kept.get("hits", 0) + kept.get("misses", 0)
            section.add(
                part="answers",
                answers=name,
                precision=result.precision,
                batch=batch,
                n=len(result.history),
                images=len(source.train),
                hit_percent=100 * kept["hits"] / asked if asked else None,
                images_per_second=epochs_alone(result.history, len(source.train)),
                record=kept,
                sections_s=result.sections,
                peak_mib=peak_mib(section.device, before),
            )


def epochs_alone(history: list[dict[str, Any]], images: int) -> list[float]:
    """Images a second of each epoch, validation and checkpoints with it."""
    ends = [0.0, *(row["seconds"] for row in history)]
    return [images / max(end - begin, 1e-6) for begin, end in zip(ends, ends[1:])]
