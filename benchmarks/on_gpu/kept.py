"""What a section of the day finds, on the disk as soon as it is found, and how long it has."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcompress.artifact import write_text

if TYPE_CHECKING:
    import torch

DONE, REFUSED, FAILED, STOPPED = "done", "refused", "failed", "stopped"


@dataclass
class Section:
    """One section while it is measured: ``rows`` and ``facts`` are in ``path`` from the moment they are told."""

    path: Path
    seconds: float  # that it has
    tiny: bool  # the trial, which may run on the CPU
    files: Path  # folder of the small network and its engines, where they were made beforehand or are made now
    data: Path | None = None  # folder with the files of Fashion-MNIST
    begun: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.begun)

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        self._write()

    def tell(self, **facts: Any) -> None:
        self.facts |= facts
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps({**self.facts, "rows": self.rows}, indent=1))


def settled(device: torch.device) -> None:
    """All that the device was asked to do is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_from_here(device: torch.device) -> int:
    """Bytes that PyTorch holds on the device now; what it holds at most is counted anew."""
    import torch

    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_mib(device: torch.device, before: int) -> float | None:
    """How far it rose above ``before`` at most, in MiB; None where there is no GPU."""
    import torch

    if device.type != "cuda":
        return None
    return round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
