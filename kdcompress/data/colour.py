"""Images in another light: brightness, contrast and saturation, each in a few levels.

All in integers, so that every device makes the same pixels.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

LEVELS = (0.0, 0.5, 1.0, -0.5, -1.0)  # of the strength
LUMINANCE = (19595, 38470, 7471)  # ITU-R 601-2 in parts of 2^16
ONE = 2**16


class Colour:
    """A number, int64 from 0 to ``count`` - 1, for each light: 0 for none; mixed radix, the levels of brightness the
    fastest, then contrast, then saturation (of colour images). A level makes it 1 + level * strength times as strong.

    Saturation is the distance from the pixel's grey, contrast that from the image's mean grey, brightness that from
    black. They apply in this order and what leaves 0..255 is clipped once, at the end.
    """

    def __init__(self, strength: float, channels: int, numbered: int | None = None):
        """``numbered``: whose numbers they are, of images with so many channels; None: with ``channels``."""
        self.channels = channels
        parts = (3 if (numbered or channels) == 3 else 2) if strength else 0
        levels = [tuple(reversed(each)) for each in itertools.product(LEVELS, repeat=parts)]
        self.count = len(levels)
        bright, contrast, saturation = (
            1 + strength * np.array([(*each, 0, 0, 0)[k] for each in levels]) for k in range(3)
        )
        own, grey, mean = bright * contrast * saturation, bright * contrast * (1 - saturation), bright * (1 - contrast)
        table = np.floor(np.stack([own, grey, mean], 1) * ONE + 0.5).astype(np.int32)
        self._table, self._there = torch.from_numpy(table), dict[torch.device, Tensor]()

    def apply(self, images: Tensor, number: Tensor) -> Tensor:
        """uint8 [B, C, H, W] by ``number`` [B, 1]."""
        if images.device not in self._there:
            self._there[images.device] = self._table.to(images.device)
        own, of_grey, of_mean = self._there[images.device][number.view(-1)].view(-1, 3, 1, 1, 1).unbind(1)
        pixels = images.int()
        grey = pixels[:, :1]
        if self.channels == 3:
            red, green, blue = (pixels[:, k : k + 1] * part for k, part in enumerate(LUMINANCE))
            grey = (red + green + blue + ONE // 2) >> 16
        size = images.shape[2] * images.shape[3]
        mean = (grey.sum((1, 2, 3), keepdim=True) // size).int()  # the sum is int64
        return ((own * pixels + of_grey * grey + of_mean * mean + ONE // 2) >> 16).clamp(0, 255).to(torch.uint8)
