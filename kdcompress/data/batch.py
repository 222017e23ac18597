"""What a step of a training is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Pairing = Literal["single", "views", "strong views", "class pairs"]
"""How the rows of a batch belong together. ``single``: each is an image of its own. ``views``: row i and row N + i of
2N are two views of one image. ``strong views``: the second one is changed more (``data.augment.second``). ``class
pairs``: they are two images of one class."""

STRONG: Pairing = "strong views"


@dataclass(frozen=True, eq=False)
class Batch:
    """``x`` uint8 [B, C, H, W], or floating point in 0..1; ``y`` what is right for each, int64 [B] class numbers,
    uint8 [B, K] sets of labels, of mixed images float32 [B, K] shares of labels (mixing.py), or where ``x`` shows them
    float32 [B, M, 6] objects (objects.py), with masks in further columns if they have any (``outlined.with_masks``), or
    uint8 [B, H, W] class maps (maps.py); ``index`` the samples' places in their split and ``view`` their view ids,
    int64 [B] each (None where they are not known). The others have the first rows of ``x`` where some images have no
    label. ``shown``: the same views of the same images as teachers see them, uint8 [B, C', H', W'], where that is not
    ``x``."""

    x: Tensor
    y: Tensor
    index: Tensor | None = None
    view: Tensor | None = None
    shown: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def parts(self, count: int, rows: Pairing) -> list[Batch]:
        """As many smaller batches of equal size, one after the other; rows that belong together stay together. Each
        has its share of the images that have no label, too."""
        if count == 1:
            return [self]
        if len(self.x) > len(self.y):
            n = len(self.y)
            labelled = replace(self, x=self.x[:n], shown=None).parts(count, rows)
            x = split_both(self.x, n, count, rows)
            shown = [None] * count if self.shown is None else split_both(self.shown, n, count, rows)
            return [replace(part, x=x, shown=shown) for part, x, shown in zip(labelled, x, shown)]
        tensors = (self.x, self.y, self.index, self.view, self.shown)
        split = [[None] * count if t is None else split_rows(t, count, rows) for t in tensors]
        return [Batch(*part) for part in zip(*split)]  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Batch:
        tensors = (self.x, self.y, self.index, self.view, self.shown)
        moved = (t if t is None else t.to(device, non_blocking=True) for t in tensors)
        return Batch(*moved)  # type: ignore[arg-type]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. A GPU gets what is in host memory after all that it was asked for before, and is not
    waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def rows_each(pairing: Pairing) -> int:
    """Rows of a batch that one image of ``batch_size`` makes: itself, and the one that belongs to it."""
    return 1 if pairing == "single" else 2


def two_views(rows: Tensor, labelled: int) -> tuple[Tensor, Tensor]:
    """``rows`` [B, ...] of the first and of the second views of a batch, in one order; the first ``labelled`` have
    labels. Both kinds of images are paired among themselves."""
    first, second = zip(*(part.chunk(2) for part in (rows[:labelled], rows[labelled:]) if len(part)))
    return torch.cat(first), torch.cat(second)


def split_rows(rows: Tensor, count: int, pairing: Pairing) -> list[Tensor]:
    """``rows`` [B, ...] as ``count`` tensors of equal size; see ``Batch.parts``."""
    halves = rows.chunk(rows_each(pairing))
    return [torch.cat(part) if len(part) > 1 else part[0] for part in zip(*(half.chunk(count) for half in halves))]


def split_both(rows: Tensor, labelled: int, count: int, pairing: Pairing) -> list[Tensor]:
    """``rows`` [B, ...] as ``count`` tensors of equal size, each with its share of the first ``labelled`` rows and of
    the others after them."""
    first = split_rows(rows[:labelled], count, pairing)
    if len(rows) <= labelled:
        return first
    return [torch.cat(part) for part in zip(first, split_rows(rows[labelled:], count, pairing))]
