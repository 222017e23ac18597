"""The loss terms of the steps: looked at a window at a time, for each look waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from kdcompress.data.feed import Feed
from kdcompress.distributed import processes, reduced
from kdcompress.errors import KDCompressError
from kdcompress.training.profile import Clock


class Losses:
    """``add`` the terms of each step; ``look`` at those not looked at yet. ``sums`` are of the ``counted`` steps since
    the epoch began, by term; ``recent`` are the means and ``rate`` the images a second of the last window."""

    def __init__(self, feed: Feed, steps: int, clock: Clock):
        self.feed, self.steps, self.clock = feed, steps, clock
        self.sums: dict[str, float] = {}
        self.counted = 0
        self.rate = 0.0
        self.recent: dict[str, float] = {}
        self.names: list[str] = []  # of the window's terms
        self.window: list[Tensor] = []  # float32 [terms] of each step, on the device
        self.first = 0  # the window's first step
        self.since = time.monotonic()  # the window's beginning

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """The terms of the step of that number, from 0: scalars on the device."""
        if list(terms) != self.names:  # a term has begun or ended
            self.look()
            self.names = list(terms)
        if not self.window:
            self.first = step
        self.window.append(torch.stack([term.float() for term in terms.values()]))

    def look(self) -> None:
        """Fetches the window's terms and adds them up.

        Raises KDCompressError at the first that is not finite, with the step, the images and the terms."""
        if not self.window:
            return
        with self.clock.section("device"):
            values = reduced(torch.stack(self.window), "SUM").cpu() / processes()
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values)).any(1).nonzero()[0])
            raise diverged(self.feed, self.first + row, self.steps, dict(zip(self.names, values[row].tolist())))
        for name, value in zip(self.names, values.double().sum(0).tolist()):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += len(self.window)
        self.recent = dict(zip(self.names, values.double().mean(0).tolist()))
        now = time.monotonic()
        self.rate = len(self.window) * self.feed.rows_per_step / max(now - self.since, 1e-9)
        self.since = now
        self.window.clear()

    def means(self) -> dict[str, float]:
        """Of the epoch so far."""
        return {name: total / max(self.counted, 1) for name, total in self.sums.items()}

    def begin_epoch(self) -> None:
        self.sums, self.counted = {}, 0

    def begin_window(self) -> None:
        """The time until now is not that of the steps to come."""
        self.since = time.monotonic()


def diverged(feed: Feed, step: int, steps: int, terms: Mapping[str, float]) -> KDCompressError:
    """What is to be told of a step, counted from 0, that has a term that is not finite."""
    batch = feed.loader.batch_at(step)
    index = [] if batch.index is None else batch.index.tolist()
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    shown = ", ".join(map(str, index[:16])) + (f", ... ({len(index)} in all)" if len(index) > 16 else "")
    return KDCompressError(
        f"The training diverged: {' and '.join(bad)} is not finite at step {step + 1} of {steps}.",
        where=f"training images {shown}",
        got=", ".join(f"{name}={value:.4g}" for name, value in terms.items()),
        hint="lower train.lr, set train.clip_norm=1, or train in fp32 (train.precision=fp32)",
    )
