"""What one batch does to the weights: forward, backward and the optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from kdcompress.data.batch import Batch, Pairing, split_both
from kdcompress.models.taps import Taps
from kdcompress.recipe import Train
from kdcompress.training.batch_norm import SharedBatchNorm
from kdcompress.training.dot import DOT
from kdcompress.training.profile import Clock
from kdcompress.training.schedule import lr_scale
from kdcompress.training.setup import Setup


class Update:
    """terms = update(step, batch)"""

    def __init__(self, setup: Setup, options: Train, clock: Clock):
        self.setup, self.options, self.clock = setup, options, clock
        inner = setup.optimizer.optimizer
        self.dot = inner if isinstance(inner, DOT) else None  # it clips by itself

    def __call__(self, step: int, batch: Batch, answers: list[Taps] | None = None) -> dict[str, Tensor]:
        """The optimizer's step of that number, from 0. ``answers``: the teachers' to the batch, where they are known.
        Returns the batch's terms: scalars on the device, without a gradient."""
        count, done = self.options.accumulate, step / self.setup.steps
        terms: dict[str, Tensor] = {}
        for number, (part, known) in enumerate(parts(batch, answers, count, self.setup.distillation.rows), 1):
            last = number == count
            with nullcontext() if last else self.setup.accelerator.no_sync(self.setup.module):
                found = self._gradients(part, known, done)
            terms = {name: term.detach() + terms.get(name, 0.0) for name, term in found.items()}
        if self.options.clip_norm and self.dot is None:
            with self.clock.section("backward"):
                self.setup.accelerator.clip_grad_norm_(self.setup.module.parameters(), self.options.clip_norm)
        with self.clock.section("optimizer"):
            self._move(step, done)
        return terms

    def _gradients(self, part: Batch, known: list[Taps] | None, done: float) -> dict[str, Tensor]:
        """Adds those of a part of the batch to those there are; returns the part's terms."""
        with self.clock.section("forward"), SharedBatchNorm() if self.options.sync_batch_norm else nullcontext():
            found = self.setup.module(part.x, part.y, done, part.index, part.view, known, part.shown)
            found = {name: term / self.options.accumulate for name, term in found.items()}
        with self.clock.section("backward"):
            if self.dot is not None:
                self.dot.backward(found, self.options.clip_norm)
            else:
                self.setup.accelerator.backward(sum(found.values()))
        return found

    def _move(self, step: int, done: float) -> None:
        optimizer, average = self.setup.optimizer, self.setup.average
        for group in optimizer.param_groups:
            group["lr"] = self.options.lr * lr_scale(self.options, done)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update(self.setup.distillation.student.net, step + 1)


def parts(
    batch: Batch, answers: list[Taps] | None, count: int, rows: Pairing
) -> Iterator[tuple[Batch, list[Taps] | None]]:
    """The parts of a batch, with the teachers' answers to each where they are known."""
    if answers is None:
        yield from ((part, None) for part in batch.parts(count, rows))
        return
    labelled = len(batch.y)

    def split(rows_of_all: Tensor | None) -> list[Any]:
        return [None] * count if rows_of_all is None else split_both(rows_of_all, labelled, count, rows)

    each = [
        [replace(taps, logits=a, pooled=b) for a, b in zip(split(taps.logits), split(taps.pooled))] for taps in answers
    ]
    yield from zip(batch.parts(count, rows), map(list, zip(*each)))
