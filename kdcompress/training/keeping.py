"""A teacher with its answers: how they are packed, and written to their file while the training goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcompress.console import say
from kdcompress.models.taps import Taps
from kdcompress.training.answers import Answers
from kdcompress.training.packing import Largest, Packing, Whole, change, said, told

CACHEABLE = {"logits", "pooled"}


class Kept:
    """``packings``: of each tensor of an answer, by its name. ``top``: how many of the probabilities are kept, where it
    is not all of them."""

    def __init__(self, teach: Callable[[Tensor], Taps], probe: Taps, half: bool, top: int | None = None):
        self.teach, self.classifier, self.top = teach, probe.classifier, top
        self.packings: dict[str, Packing] = {}
        for name in sorted(CACHEABLE):
            if (tensor := getattr(probe, name)) is not None:
                stored = torch.float16 if half and tensor.dtype == torch.float32 else tensor.dtype
                whole = Whole(name, tensor.shape[1], tensor.dtype, stored)
                chosen = top if name == "logits" else None
                self.packings[name] = Largest(name, whole.width, whole.dtype, chosen) if chosen else whole
        facts = [packing.facts() for packing in self.packings.values()]
        self.layout = [fact for part in zip(*facts) for fact in part]
        self.widths = [packing.bytes for packing in self.packings.values()]
        self.answers: Answers | None = None  # None: they could not be kept
        self.about: dict[str, Any] = {}  # what they are, for a list of what is kept
        self.coming: list[tuple[np.ndarray, Tensor, Any]] = []  # on their way from the device
        self.changed: list[Tensor] = []  # sums of ``change``
        self.measured = 0  # answers in those

    @property
    def names(self) -> list[str]:
        return list(self.packings)

    def open(self, path: Path, rows: int) -> None:
        self.answers = Answers(path, rows, sum(self.widths))

    def packed(self, taps: Taps) -> Tensor:
        """uint8 [N, bytes of an answer]."""
        return torch.cat([packing.packed(getattr(taps, name)) for name, packing in self.packings.items()], 1)

    def unpacked(self, packed: Tensor) -> Taps:
        found: dict[str, Any] = {"pooled": None}
        for (name, packing), chunk in zip(self.packings.items(), packed.split(self.widths, 1)):
            found[name] = packing.unpacked(chunk)
        return Taps(stages=[], classifier=self.classifier, **found)

    def measure(self, taps: Taps, packed: Tensor) -> None:
        """Counts what packing changes, where that is more than a rounding; without a look at the device."""
        if self.top:
            total = change(taps.logits, self.unpacked(packed).logits)
            self.changed = [sum(self.changed, total)]
            self.measured += len(packed)

    def error(self) -> dict[str, float] | None:
        """Means of ``packing.change`` over the answers that were computed; None where none was."""
        return told(self.changed[0], self.measured) if self.changed else None

    def told(self) -> str:
        """What packing changes, in words; "" where it changes nothing."""
        error = self.error()
        return said(self.top, self.packings["logits"].width, error) if error and self.top else ""

    def keep(self, rows: np.ndarray, packed: Tensor) -> None:
        if packed.device.type == "cuda":
            host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True).copy_(packed, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self.coming.append((rows, host, event))
        else:
            self._write(rows, packed.cpu())

    def settle(self) -> None:
        """The answers of earlier steps are there: on a GPU this waits for the teacher's part of the step before, while
        the student's is still to be done."""
        for rows, host, event in self.coming:
            event.synchronize()
            self._write(rows, host)
        self.coming.clear()

    def _write(self, rows: np.ndarray, packed: Tensor) -> None:
        self._safely(lambda answers: answers.write(rows, packed.numpy()))

    def flush(self) -> None:
        self.settle()
        self._safely(Answers.flush)

    def _safely(self, action: Callable[[Answers], None]) -> None:
        if self.answers is not None:
            try:
                action(self.answers)
            except OSError as error:
                self.answers = None
                say(f"teacher's answers: no longer kept, {error.strerror or error}", style="yellow")
