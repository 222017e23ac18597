"""What a method sees that looks at the whole batch, where several processes share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.distributed import gathered, processes
from kdcompress.models.taps import Taps


def whole_taps(taps: Taps, rows: int) -> Taps:
    """Those of all processes; the stages' when they are looked at, for they are large."""
    pooled, last = (None if t is None else gathered(t, rows) for t in (taps.pooled, taps.last))
    stages: Any = WholeStages(taps.stages, rows)
    return replace(taps, logits=gathered(taps.logits, rows), pooled=pooled, stages=stages, pre=None, last=last)


class WholeStages(Sequence[Tensor]):
    """Stage maps that are gathered from all processes one by one, as they are asked for."""

    def __init__(self, maps: Sequence[Tensor], rows: int):
        self.maps, self.rows = maps, rows

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, place: Any) -> Any:
        return gathered(self.maps[place], self.rows)


def whole_batch(batch: Batch, rows: int) -> Batch:
    """Of all processes, but for the images, of which there is the number alone."""
    y, index, view = (t if t is None else gathered(t, rows) for t in (batch.y, batch.index, batch.view))
    assert y is not None
    x = torch.empty(len(batch) * processes(), *batch.x.shape[1:], dtype=batch.x.dtype, device="meta")
    return Batch(x, y, index, view)
