"""Several sets of images as one, none of them copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np


class Joined:
    """``parts``, arrays or ``kept.Stored``, one behind the other: like an array uint8 [N, H, W, C]. What is indexed, by
    a number, a slice or an array of numbers, is read, as a copy. Grey images among colour ones have three channels."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])
        (height, width), *others = {part.shape[1:3] for part in self.parts}
        if others:
            raise ValueError(f"images of {height} x {width} and of {others[0][0]} x {others[0][1]}")
        self.shape = (int(self.ends[-1]), height, width, max(part.shape[3] for part in self.parts))

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, key: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray: ...
    def __getitem__(self, key: Any) -> np.ndarray:
        chosen = np.arange(len(self))[key]
        rows = np.atleast_1d(chosen)
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        part_of = np.searchsorted(self.ends, rows, side="right")
        for number, part in enumerate(self.parts):
            places = np.flatnonzero(part_of == number)
            if len(places):
                found[places] = part[rows[places] - (self.ends[number] - len(part))]
        return found if np.ndim(chosen) else found[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))
