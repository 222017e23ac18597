"""Images in other colours than they are kept in: converted as they are read, and never copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

LUMINANCE = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601-2 in parts of 2^16, as Pillow has it


@dataclass(frozen=True, eq=False)
class Recoloured:
    """``images``, uint8 [N, H, W, C] in memory or in a file, with ``channels``: grey becomes RGB, and RGB its
    luminance. What is indexed is read, as a copy."""

    images: Any
    channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.images.shape[:-1], self.channels

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> np.ndarray:
        pixels = self.images[key]
        return np.repeat(pixels, 3, axis=-1) if self.channels == 3 else grey(pixels)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def chosen(self, rows: np.ndarray | slice) -> Recoloured:
        """Some of the images; those of a file are not read."""
        inner = self.images
        return replace(self, images=inner.chosen(rows) if hasattr(inner, "chosen") else inner[rows])


def grey(pixels: np.ndarray) -> np.ndarray:
    """The luminance of uint8 [..., 3], to the bit as Pillow's mode L has it: uint8 [..., 1]."""
    return ((pixels @ LUMINANCE + 2**15) >> 16).astype(np.uint8)[..., None]
