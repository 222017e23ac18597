"""A Gaussian blur, in integers, so that every device makes the same pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kdcompress.data.rows import OnDevice, changed
from kdcompress.errors import UsageError
from kdcompress.recipe.augment import Blur

LEVELS = 20  # of blur
REACH = 3  # standard deviations on each side


class Blurs:
    """A number, int64 from 0 to ``count`` - 1, for each blur: the last ``LEVELS`` are blurs, the least first, and the
    others none. The image is mirrored at its border. Where an image is ``times`` as large as that of whose pixels the
    standard deviations are, so are these."""

    def __init__(self, blur: Blur, height: int, width: int, times: float = 1.0):
        least, largest = (times * sigma for sigma in blur.sigma)
        self.radius = math.ceil(REACH * largest)
        if self.radius >= min(height, width):
            raise UsageError(
                "The blur reaches farther than the image.",
                where="data.augment.blur.sigma",
                got=f"{largest:g}: {self.radius} pixels to each side",
                allowed=f"at most {(min(height, width) - 1) // REACH}, for images of {height} x {width}",
            )
        self.count = round(LEVELS / blur.probability)
        self.sigmas = [least + (largest - least) * (level + 0.5) / LEVELS for level in range(LEVELS)]
        weights = torch.from_numpy(np.stack([self._weights(sigma) for sigma in self.sigmas]))
        mirrored = [torch.from_numpy(np.pad(np.arange(n), self.radius, "reflect")) for n in (height, width)]
        self._tables = OnDevice(weights, *mirrored)

    def _weights(self, sigma: float) -> np.ndarray:
        """Of the pixels around one, in parts of 2^16, int32 [2 radius + 1]; their sum is 2^16."""
        distance = np.arange(-self.radius, self.radius + 1)
        parts = np.exp(-(distance**2) / (2 * sigma**2))
        found = np.rint(2**16 * parts / parts.sum()).astype(np.int32)
        found[self.radius] += 2**16 - found.sum()
        return found

    def apply(self, images: Tensor, number: Tensor) -> Tensor:
        """uint8 [B, C, H, W] by ``number`` [B, 1]."""
        level = number.view(-1) - (self.count - LEVELS)
        return changed(images.clone(), level >= 0, level.clamp(min=0), self._blurred)

    def _blurred(self, images: Tensor, level: Tensor) -> Tensor:
        table, rows, columns = self._tables(images.device)
        weights = table[level][:, :, None, None, None]
        height, width = images.shape[2:]
        lines = _weighted(weights, images.int().index_select(2, rows), 2, height)
        lines = ((lines + (1 << 8)) >> 9).index_select(3, columns)  # 15 bits, so that the next sum has 31
        return ((_weighted(weights, lines, 3, width) + (1 << 22)) >> 23).to(torch.uint8)


def _weighted(weights: Tensor, pixels: Tensor, dim: int, length: int) -> Tensor:
    """The sum of ``pixels`` shifted along ``dim``, int32, by ``weights`` [B, shifts, 1, 1, 1]."""
    total = weights[:, 0] * pixels.narrow(dim, 0, length)
    for shift in range(1, weights.shape[1]):
        total.addcmul_(weights[:, shift], pixels.narrow(dim, shift, length))
    return total
