"""What a training needs before its first step: accelerate, the loader, the optimizer; and undone when it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from kdcompress.console import say_once
from kdcompress.data.balance import check_balanced, class_weights
from kdcompress.data.feed import Feed
from kdcompress.data.kept import Images
from kdcompress.data.loader import Loader
from kdcompress.data.mixing import Mixing
from kdcompress.data.splits import Source, Split
from kdcompress.distributed import processes
from kdcompress.recipe import Augment, Train
from kdcompress.training.compiling import compile_members, leave_uncompiled
from kdcompress.training.distillation import Distillation
from kdcompress.training.moving_average import EMA, unreached
from kdcompress.training.needs import check_mixing, check_unlabelled
from kdcompress.training.optimizer import make_optimizer
from kdcompress.training.strided import subsample_first

OTHER = 1 << 40  # what sets the seed of the images without labels apart


@dataclass(frozen=True)
class Setup:
    """``module`` is the distillation as accelerate has it run (in DistributedDataParallel where there are several
    processes) and ``optimizer`` accelerate's around ours; ``feed`` gives the batches, and ``average`` is of the
    student's network."""

    accelerator: Accelerator
    feed: Feed
    distillation: Distillation
    module: nn.Module
    optimizer: Any
    average: EMA | None
    steps: int

    @property
    def loader(self) -> Loader:
        """Of the labelled images, which count the epochs."""
        return self.feed.loader


def accelerated(precision: str) -> Accelerator:
    """Accelerate for one training: teacher and student may train in different precisions."""
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision)


@contextmanager
def set_up(
    distillation: Distillation,
    split: Split,
    options: Train,
    augment: Augment,
    seed: int,
    accelerator: Accelerator,
    unlabelled: Images | None = None,
    shown: Source | None = None,
    like: tuple[int, ...] | None = None,
) -> Iterator[Setup]:
    """``distillation`` is ready to be trained on ``split`` inside; afterwards it can be trained again. Images without
    labels, uint8 [N, H, W, C], are for its teachers: without one they are not used.
    ``shown``: what teachers see. ``like``: as of a ``Source``."""
    kinds = {name: type(method) for name, method in distillation.auxiliary().items()}
    check_mixing(kinds, augment)
    check_balanced(split.truth, options.balance)

    def loader(
        split: Split, batch_size: int, seed: int, balanced: bool = False, like: tuple[int, ...] | None = None
    ) -> Loader:
        return Loader(
            split,
            augment,
            batch_size,
            seed,
            device=accelerator.device,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            channels_last=options.channels_last,
            rows=distillation.rows,
            balanced=balanced,
            like=like,
        )

    usual = options.batch_size, seed, options.balance == "sampling"
    main, beside = loader(split, *usual, like), None
    if unlabelled is not None and distillation.teachers:
        parts = options.accumulate * accelerator.num_processes
        check_unlabelled(kinds, unlabelled, split, parts)
        most = len(unlabelled) // parts * parts
        more = min(main.batch_size * options.unlabelled, most), seed + OTHER
        beside = loader(nobodys(unlabelled), *more)
    ranks = accelerator.process_index, accelerator.num_processes
    classes = distillation.student.tapped.shapes.classes
    mixing = Mixing(augment, classes, seed, *ranks, distillation.rows) if augment.mixes else None
    feed = Feed(main, beside, mixing)
    if shown and distillation.teachers:
        more_shown = nobodys(shown.unlabelled.images) if beside and shown.unlabelled else None
        others = loader(more_shown, *more, like=shown.like) if more_shown else None
        feed = replace(feed, shown=Feed(loader(shown.train, *usual, shown.like), others, mixing))
    steps = number_of_steps(options, feed.rows_per_step, main.steps_per_epoch)
    if options.channels_last:
        distillation.to(memory_format=torch.channels_last)
    distillation.to(accelerator.device)
    subsampling = subsample_first(distillation) if options.channels_last else []
    try:
        share_state(distillation)
        if options.balance == "weights":
            distillation.class_weights = torch.from_numpy(class_weights(split.truth, classes)).to(accelerator.device)
        module, optimizer = accelerator.prepare(distillation, make_optimizer(distillation, options))
        average = EMA(distillation.student.net, options.ema) if options.ema else None
        if options.ema and accelerator.is_main_process and (told := unreached(options.ema, steps)):
            say_once(told, "dim")
        yield Setup(accelerator, feed, distillation, module, optimizer, average, steps)
    finally:
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):  # of accelerate, which would leave
            vars(distillation).pop(name, None)  # autocast out where the same module is trained again
        leave_uncompiled(distillation)
        distillation.class_weights = None
        for handle in subsampling:
            handle.remove()


def nobodys(images: Images) -> Split:
    """Images without labels as a split."""
    return Split(images, np.zeros(len(images), np.int64))


def number_of_steps(options: Train, rows_per_step: int, steps_per_epoch: int) -> int:
    """Of the budget of images where there is one, else of the epochs; 1 at least."""
    if options.images:
        return max(1, math.ceil(options.images / rows_per_step))
    return max(1, round(options.epochs * steps_per_epoch))


def share_state(distillation: Distillation) -> None:
    """What the methods that see the whole batch remember is the same in every process: given out once, not at each
    step."""
    if processes() == 1:
        return
    names = distillation.remembered()
    buffers = dict(distillation.named_buffers())
    for name in names:
        torch.distributed.broadcast(buffers[name], 0)
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(distillation, names)


def compiled(setup: Setup, options: Train, step: int) -> str:
    """The mode of torch.compile that the networks now run in, for batches like that of ``step``; or why in none."""
    if options.compile == "off":
        return "off"
    setup.distillation.train()
    batches = [feed.loader.batch_at(step) for feed in (setup.feed, setup.feed.teaching)]
    mine, shown = (each.parts(options.accumulate, setup.distillation.rows)[0].x for each in batches)
    why = compile_members(setup.distillation, mine, shown, options.compile, setup.accelerator.autocast)
    return f"no: {why}" if why else options.compile
