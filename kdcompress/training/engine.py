"""The one training engine: any method, any device, resumable to the same weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from kdcompress.artifact import content_hash
from kdcompress.data.batch import STRONG, Batch
from kdcompress.data.splits import Source, Split
from kdcompress.distributed import check_launch, loss_of_a_process_told
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment, Train
from kdcompress.training.cache import TeacherCache, joined, joined_records
from kdcompress.training.checkpoint import load_checkpoint, save_checkpoint
from kdcompress.training.compiling import step_begins
from kdcompress.training.distillation import Distillation
from kdcompress.training.evaluation import score, validate
from kdcompress.training.likeness import Likeness
from kdcompress.training.losses import Losses
from kdcompress.training.memory import freed_memory_kept
from kdcompress.training.opening import open_cache
from kdcompress.training.optimizer import check_optimizer
from kdcompress.training.precision import choose_precision
from kdcompress.training.profile import Clock, Profiler, outside_step_percent
from kdcompress.training.result import TrainResult
from kdcompress.training.setup import Setup, accelerated, compiled, set_up
from kdcompress.training.state import State
from kdcompress.training.update import Update

CHECK_EVERY = 25  # steps between looks at the losses: each look waits for the device
CHECKPOINT_SECONDS = 30.0
CHECKPOINT = "checkpoint.pt"  # in the training's folder

Progress = Callable[[int, int, dict[str, float]], None]


@loss_of_a_process_told()
@freed_memory_kept()
def train(
    distillation: Distillation,
    source: Source,
    options: Train,
    augment: Augment,
    seed: int,
    folder: Path,
    progress: Progress = lambda step, steps, facts: None,
    profile: Path | None = None,
    looks: int = 1,
) -> TrainResult:
    """Train ``distillation`` on ``source.train``; choose by ``source.validation``.

    ``folder`` holds the checkpoint: called again after an interruption, the training goes on from there and ends with
    the weights it would have had (on a GPU but for rounding: some of its kernels add in any order). ``progress(step,
    steps, facts)`` is told of the mean loss, its terms ("loss/NAME", of the last iterations), the learning rate, images
    a second and the validation score, where it is new; after an interruption again of what came after the checkpoint.
    ``profile``: a folder for a trace and a table of where the time goes. ``looks``: at the validation images, evenly
    spread, at least so many times; in any case at the end, and after each epoch, or, where an epoch has fewer images
    than the validation split, after as many epochs as have as many.

    Raises KDCompressError when a loss term is not finite, with the step, the images and the term, and UsageError
    for a precision or an optimizer that cannot train this here.
    """
    check_launch()
    precision = choose_precision(options.precision)
    accelerator = accelerated(precision)
    device, main = accelerator.device, accelerator.is_main_process
    check_optimizer(options, [type(method) for method in distillation.auxiliary().values()], accelerator.num_processes)
    result = TrainResult(selected=options.select, device=str(device), precision=precision)
    unlabelled = source.unlabelled.images if source.unlabelled else None
    augment = augment.seen(distillation.rows == STRONG)
    seen = unlabelled, source.shown, source.like
    with set_up(distillation, source.train, options, augment, seed, accelerator, *seen) as setup:
        torch.manual_seed(seed)  # dropout and the like; batches and views do not draw from it
        accelerator.wait_for_everyone()  # the first process has prepared the folder
        saved = load_checkpoint(folder / CHECKPOINT)
        start = saved["step"] if saved else 0
        result.compiled = compiled(setup, options, start)
        hashes = hashes_of(source)
        called = [source.name, f"{source.name}, without labels"]
        opened = [
            open_cache(distillation, loader, digest, augment, options, precision, accelerator.autocast, main, name)
            for loader, digest, name in zip(setup.feed.teaching.loaders, hashes, called)
        ]
        result.teacher_cache = opened[-1][1]
        caches = [cache for cache, _ in opened if cache]
        caches = caches if len(caches) == len(opened) else []
        if profile is not None and main:
            clock: Clock = Profiler(result.sections, profile, distillation, device, setup.steps - start)
        else:
            clock = Clock(result.sections)
        with closing(clock):
            losses = Losses(setup.feed, setup.steps, clock)
            update = Update(setup, options, clock)
            state = State(setup, losses, result, caches)
            if saved:
                state.restore(saved)
            figure = _figure(distillation, source.validation, device, options.channels_last)
            made = Training(options, setup, update, losses, caches, state, result, clock, folder, progress, figure)
            between = epochs_between_looks(source, setup) * setup.loader.steps_per_epoch
            made.run(start, min(between, math.ceil(setup.steps / looks)))

    result.teacher_passes = distillation.teacher_passes * accelerator.num_processes
    if caches:
        result.teacher_cache = joined_records(caches)
    result.images_seen = setup.steps * setup.feed.rows_per_step
    result.seconds = clock.total()
    result.outside_step_percent = outside_step_percent(result.sections)
    if isinstance(clock, Profiler):
        clock.write(folder.name, result.images_seen)
    return result


def epochs_between_looks(source: Source, setup: Setup) -> int:
    """At the validation images: else a training on few images would spend most of its time on them."""
    rows = setup.loader.steps_per_epoch * setup.feed.rows_per_step
    return math.ceil(len(source.validation) / rows)


def hashes_of(source: Source) -> list[str]:
    """By what teachers see, of images with labels and of those without: what their answers are to. Where that is not
    what the student sees, views are counted as its are."""
    seen = source.shown or source
    digest = content_hash([source.hash, seen.hash]) if source.shown else source.hash
    beside = seen.unlabelled.hash if seen.unlabelled else ""
    return [digest, content_hash([source.hash, beside]) if source.shown and beside else beside]


def _figure(distillation: Distillation, split: Split, device: torch.device, channels_last: bool) -> Callable[[], float]:
    """The task's of the student, or how like the teacher's its features are, on ``split``."""
    if distillation.task is None:
        return Likeness(distillation, split, device, channels_last)
    return partial(score, distillation.student, split, device, distillation.task, channels_last)


@dataclass
class Training:
    """One training, made ready. ``figure`` decides which weights are the best."""

    options: Train
    setup: Setup
    update: Update
    losses: Losses
    caches: list[TeacherCache]  # one for each kind of images; none where answers are not kept
    state: State
    result: TrainResult
    clock: Clock
    folder: Path
    progress: Progress
    figure: Callable[[], float]
    saved: float = field(default_factory=time.monotonic)  # when it was last

    def run(self, start: int, epoch: int) -> None:
        """The loop: the steps from that of number ``start`` to the last. The validation images are looked at after each
        ``epoch`` steps and at the end."""
        steps, clock = self.setup.steps, self.clock
        self.setup.module.train()
        with closing(self.setup.feed.batches(start, shown=not self.caches)) as batches:
            for step in range(start, steps):
                clock.at(step - start)
                with clock.section("data"):
                    batch = next(batches)
                step_begins(self.options.compile)
                answers = self._answers(step, batch)
                terms = self.update(step, batch, answers)
                self.losses.add(step, terms)

                finished = step + 1
                epoch_ends = finished % epoch == 0 or finished == steps
                if epoch_ends or len(self.losses.window) == CHECK_EVERY:
                    self._look(finished, epoch_ends)

    def _answers(self, step: int, batch: Batch) -> list[Taps] | None:
        """The teachers' to the batch, where they are kept and asked for."""
        with self.clock.section("forward"):
            if self.caches and self.setup.distillation.taught(step / self.setup.steps):
                parts = self.setup.feed.apart(batch)
                return joined([cache.answers(step, x) for cache, x in zip(self.caches, parts)])
        return None

    def _look(self, finished: int, epoch_ends: bool) -> None:
        """After so many steps: at the losses; at the end of an epoch, or when it is time, all is saved."""
        main = self.setup.accelerator.is_main_process
        self.losses.look()
        facts = {"loss": sum(self.losses.means().values()), "images_per_second": self.losses.rate}
        facts |= {f"loss/{name}": mean for name, mean in self.losses.recent.items()}
        facts["lr"] = self.setup.optimizer.param_groups[0]["lr"]
        due = epoch_ends or time.monotonic() - self.saved > CHECKPOINT_SECONDS
        if due:
            with self.clock.section("checkpoints"):
                for cache in self.caches:
                    cache.flush()
        if epoch_ends:
            if main:
                with self.clock.section("evaluation"):
                    facts["validation_score"] = self._validate(finished)
            self.setup.accelerator.wait_for_everyone()
            self.losses.begin_epoch()
        if due:
            if main:
                with self.clock.section("checkpoints"):
                    save_checkpoint(self.state.after(finished), self.folder / CHECKPOINT)
            self.saved = time.monotonic()
        if main:
            with self.clock.section("logging"):
                self.progress(finished, self.setup.steps, facts)
        if epoch_ends:
            self.losses.begin_window()

    def _validate(self, finished: int) -> float:
        """The figure; it begins a row of the history."""
        setup, loader = self.setup, self.setup.loader
        student, autocast = setup.distillation.student, setup.accelerator.autocast
        reached, weights = validate(student, self.options, setup.average, autocast, self.figure)
        epoch, terms, seconds = round(finished / loader.steps_per_epoch, 3), self.losses.means(), self.clock.total()
        self.result.validated(epoch, reached, weights)
        self.result.history.append(
            {
                "epoch": epoch,
                "step": finished,
                "lr": setup.optimizer.param_groups[0]["lr"],
                "loss": sum(terms.values()),
                "terms": terms,
                "validation_score": reached,
                "images_per_second": round(finished * setup.feed.rows_per_step / seconds, 1),
                "seconds": round(seconds, 2),
            }
        )
        return reached
