"""The masks of objects, kept as COCO's run-length code: ASCII text of about a byte for each place where a column of the
mask begins or ends. No mask is in memory as pixels but those of the images that are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress.data.objects import KIND, NOTHING
from kdcompress.optional import require
from kdcompress.segments import SHARE

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 17  # pixels that are looked at together


@dataclass(frozen=True, eq=False)
class Masks:
    """``codes``: one behind the other, uint8; that of mask k begins at ``starts[k]``, int64 [T + 1]. ``size``: height
    and width of all."""

    codes: np.ndarray
    starts: np.ndarray
    size: tuple[int, int]

    @classmethod
    def of(cls, codes: Iterable[bytes], size: tuple[int, int]) -> Masks:
        every = list(codes)
        starts = np.cumsum([0, *map(len, every)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(every), np.uint8), starts, size)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def code(self, number: int) -> bytes:
        return self.codes[self.starts[number] : self.starts[number + 1]].tobytes()


@dataclass(frozen=True, eq=False)
class Outlined:
    """The objects of images, float32 [N, M, 6] (objects.py), each with its mask: number ``numbers`` int64 [N, M] of
    ``masks``, -1 for padding. It is indexed as the array of objects is."""

    objects: np.ndarray
    numbers: np.ndarray
    masks: Masks

    @classmethod
    def of(cls, objects: np.ndarray, codes: Sequence[bytes], size: tuple[int, int]) -> Outlined:
        """``codes``: of all objects that are no padding, image by image."""
        return cls(objects, numbered(objects), Masks.of(codes, size))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.objects.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.objects.dtype

    @property
    def ndim(self) -> int:
        return self.objects.ndim

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, rows: Any) -> Outlined:
        return Outlined(self.objects[rows], self.numbers[rows], self.masks)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.objects, dtype, copy=copy)

    def codes(self) -> list[bytes]:
        """Of all objects that are no padding, image by image."""
        return [self.masks.code(number) for number in self.numbers[self.numbers >= 0].tolist()]

    def drawn(self) -> np.ndarray:
        """uint8 [..., M, H, W] of 0 and 1; padding is all 0."""
        made = np.zeros((self.numbers.size, *self.masks.size), np.uint8)
        there = np.flatnonzero(self.numbers >= 0)
        made[there] = pixels(self.codes(), self.masks.size)
        return made.reshape(*self.numbers.shape, *self.masks.size)

    def encoded(self) -> bytes:
        """The masks as they are hashed, the same on every machine."""
        return b" ".join(self.codes())


def numbered(objects: np.ndarray) -> np.ndarray:
    """Numbers from 0 of all objects that are no padding, image by image, int64 [N, M]; -1 for padding."""
    there = objects[..., KIND] != NOTHING
    return np.where(there, np.cumsum(there).reshape(there.shape) - 1, -1)


def joined(parts: Sequence[Outlined]) -> Outlined:
    """Those of one source."""
    (masks,) = {id(part.masks): part.masks for part in parts}.values()
    objects, numbers = (np.concatenate([getattr(part, name) for part in parts]) for name in ("objects", "numbers"))
    return Outlined(objects, numbers, masks)


def code() -> Any:
    """What encodes and decodes. Raises RuntimeMissingError where faster-coco-eval is not installed."""
    require("faster_coco_eval", "detection", "Masks")
    from faster_coco_eval import mask

    return mask


def codes(masks: np.ndarray) -> list[bytes]:
    """Of masks bool or uint8 [m, H, W] of 0 and 1. COCO's code has the lengths of what is outside and inside in turns,
    column by column; from the fourth on what they are more than the last but one. Made of all masks at once: the
    library's encoder, which the tests hold this to, takes three times the processor time, more than making masks."""
    if not masks.size:
        return []
    lines = masks.swapaxes(1, 2).reshape(len(masks), -1)
    count, size = lines.shape
    edges, ends = changes(lines), size * np.arange(1, count + 1)
    starts = np.append(0, np.searchsorted(edges, ends) + np.arange(1, count + 1))
    lengths = np.diff(np.sort(np.concatenate([edges, ends]), kind="stable"), prepend=0)
    values = lengths.copy()
    values[2:] -= lengths[:-2]
    whole = np.minimum(starts[:-1, None] + np.arange(3), len(lengths) - 1)  # of a mask, or else of the next one
    values[whole] = lengths[whole]
    text = characters(values)
    there = np.flatnonzero(text)
    line = text.reshape(-1)[there].tobytes()
    cuts = np.searchsorted(there, text.shape[1] * starts).tolist()
    return [line[start:end] for start, end in itertools.pairwise(cuts)]


def changes(lines: np.ndarray) -> np.ndarray:
    """Where pixels differ from those before them, int64, counted through lines bool or uint8 [m, n]; a line begins
    outside. A few lines at a time, which stay in a processor's cache."""
    count, size = lines.shape
    few = max(BLOCK // size, 1)
    found, differs = [], np.empty(min(few, count) * size, bool)
    for start in range(0, count, few):
        part = lines[start : start + few].reshape(-1)
        here = differs[: len(part)]
        np.not_equal(part[1:], part[:-1], out=here[1:])
        here[::size] = part[::size]
        found.append(np.flatnonzero(here) + start * size)
    return np.concatenate(found)


def characters(values: np.ndarray) -> np.ndarray:
    """Of integers [n] below 2 ** 31 what COCO's code has for each, uint8 [n, most]: five bits a character, the lowest
    first, as many as tell the number and its sign; 0 behind them."""
    left, going, made = values.astype(np.int32), np.ones(len(values), bool), []
    while going.any():
        bits, left = left & 31, left >> 5
        more = left != -(bits >> 4)
        made.append(np.where(going, 48 + bits + 32 * more, 0).astype(np.uint8))
        going = going & more
    return np.stack(made, 1)


def pixels(codes: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """uint8 [m, H, W] of 0 and 1."""
    if not codes:
        return np.zeros((0, *size), np.uint8)
    found: np.ndarray = code().decode([{"size": list(size), "counts": each} for each in codes])
    return found.transpose(2, 0, 1)


def visible(codes: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """bool [m]: whether a mask has a pixel."""
    if not codes:
        return np.zeros(0, bool)
    found: np.ndarray = code().area([{"size": list(size), "counts": each} for each in codes]) > 0
    return found


def drawn(outlined: Outlined) -> np.ndarray:
    """The masks of a batch, uint8 [B, m, H, W] of 0 and 255: of the first m rows, behind which is padding alone."""
    most = 1 + int(np.flatnonzero((outlined.numbers >= 0).any(0)).max(initial=0))
    return 255 * Outlined(outlined.objects[:, :most], outlined.numbers[:, :most], outlined.masks).drawn()


def with_masks(y: Tensor, masks: Tensor) -> Tensor:
    """Objects float32 [B, M, 6] with the masks uint8 [B, m, H, W] of the first m behind their columns: the share that
    is inside of each square of ``SHARE`` pixels a side, row by row, [B, M, 6 + h * w]."""
    import torch
    import torch.nn.functional as F

    shares = F.avg_pool2d(masks.float(), SHARE) / 255
    return torch.cat([y, F.pad(shares.flatten(2), (0, 0, 0, y.shape[1] - masks.shape[1]))], 2)
