"""What a step of a training is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pairing = Literal["single", "views", "class pairs"]
"""How the rows of a batch belong together. ``single``: each is an image of its own. ``views``: row i and row N + i of
2N are two views of one image. ``class pairs``: they are two images of one class."""


@dataclass(frozen=True, eq=False)
class Batch:
    """``x`` uint8 [B, C, H, W], or floating point in 0..1; ``y`` class numbers, ``index`` the samples' places in their
    split and ``view`` their view ids, int64 [B] each (the last two None where they are not known)."""

    x: Tensor
    y: Tensor
    index: Tensor | None = None
    view: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Batch:
        moved = (t if t is None else t.to(device, non_blocking=True) for t in (self.x, self.y, self.index, self.view))
        return Batch(*moved)  # type: ignore[arg-type]
