"""Images as if from nearer or farther: enlarged or made smaller about a place, which stays where it is.

All in integers, so that every device makes the same pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

STEPS = 4  # of zoom, each way
AREAS = 8  # of a resized crop
RATIOS = (3 / 4, (3 / 4) ** 0.5, 1.0, (4 / 3) ** 0.5, 4 / 3)  # of its width to its height
PLACES = 5  # along each side, from one edge to the other
FINE = 256  # parts of a pixel

Scales = list[tuple[float, float]]  # how many times as high and as wide


def zooms(strength: float) -> Scales:
    """1 + strength / 4, ..., 1 + strength times as large, then 1 - strength / 4, ..., 1 - strength; none for 0."""
    ways = [1 + sign * strength * (step + 1) / STEPS for sign in (1, -1) for step in range(STEPS)]
    return [(scale, scale) for scale in ways] if strength else []


def resized_crops(least: float, height: int, width: int) -> Scales:
    """The random resized crop (Inception's), in steps: crops of areas from ``least`` of the image's to all of it, of
    each of ``RATIOS``, but at most as high and as wide as the image. None for 0."""
    shares = [least + (1 - least) * (step + 0.5) / AREAS for step in range(AREAS)] if least else []
    sides = [((a * height * width / r) ** 0.5, (a * height * width * r) ** 0.5) for a in shares for r in RATIOS]
    return [(max(height / high, 1.0), max(width / wide, 1.0)) for high, wide in sides]


class Zoom:
    """A number, int64 from 0 to ``count`` - 1, for each zoom: 0 for none, else 1 + (step * 5 + y) * 5 + x. Step k makes
    the image ``scales[k]`` times as high and as wide. The place (y, x) stays, counted in quarters of the sides. Zeros
    move in."""

    def __init__(self, scales: Scales, height: int, width: int):
        self.count = 1 + len(scales) * PLACES**2
        self._rows = _Axis([high for high, _ in scales], height)
        self._columns = _Axis([wide for _, wide in scales], width)

    def apply(self, images: Tensor, number: Tensor) -> Tensor:
        """uint8 [B, C, H, W] by ``number`` [B, 1], bilinear."""
        y, x = self._places(number)
        top, bottom, above, below = (t[y] for t in self._rows.pixels(images.device))
        left, right, before, behind = (t[x] for t in self._columns.pixels(images.device))
        tall, wide = (-1, images.shape[1], -1, images.shape[3]), (-1, *images.shape[1:3], -1)
        upper, lower = (images.gather(2, rows[:, None, :, None].expand(tall)).int() for rows in (top, bottom))
        lines = upper.mul_(above[:, None, :, None]).add_(lower.mul_(below[:, None, :, None]))
        first, second = (lines.gather(3, columns[:, None, None, :].expand(wide)) for columns in (left, right))
        mixed = first.mul_(before[:, None, None, :]).add_(second.mul_(behind[:, None, None, :]))
        return mixed.add_(FINE**2 // 2).bitwise_right_shift_(16).to(torch.uint8)

    def nearest(self, maps: Tensor, number: Tensor) -> Tensor:
        """uint8 [B, C, H, W] by ``number`` [B, 1], each pixel the nearest to its middle. Zeros move in."""
        y, x = self._places(number)
        rows, columns = (axis.nearest(maps.device) for axis in (self._rows, self._columns))
        (row, down), (column, along) = ([t[y] for t in rows], [t[x] for t in columns])
        lines = maps.gather(2, row[:, None, :, None].expand(-1, maps.shape[1], -1, maps.shape[3]))
        found = lines.gather(3, column[:, None, None, :].expand(-1, *maps.shape[1:3], -1))
        return found * (down[:, None, :, None] & along[:, None, None, :])

    def moved(self, x: Tensor, y: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """Where the places x, y, float32 [B, M], of images come to lie, unclipped."""
        row, column = self._places(number)
        scale, shift_x = (t[column][:, None] for t in self._columns.lines(x.device))
        _, shift_y = (t[row][:, None] for t in self._rows.lines(x.device))
        return x * scale + shift_x, y * scale + shift_y

    def _places(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the tables for each image, int64 [B] each: for y and for x."""
        number = number.view(-1)
        step, place = (number - 1) // PLACES**2, (number - 1) % PLACES**2
        y, x = (1 + step * PLACES + part for part in (place // PLACES, place % PLACES))
        return torch.where(number == 0, 0, y), torch.where(number == 0, 0, x)


class _Axis:
    """For one side of the image tables with a row for each zoom and place, the first for none."""

    def __init__(self, scales: list[float], side: int):
        steps = [1.0, *(scale for scale in scales for _ in range(PLACES))]
        places = [0.0, *(side * place / (PLACES - 1) for _ in scales for place in range(PLACES))]
        scale, place = np.array(steps)[:, None], np.array(places)[:, None]
        source = place + (np.arange(side) + 0.5 - place) / scale  # the middle of each pixel
        fine = np.floor((source - 0.5) * FINE + 0.5).astype(np.int64)
        near = fine // FINE
        index = [torch.from_numpy(np.clip(each, 0, side - 1)) for each in (near, near + 1)]
        second, seen = fine - near * FINE, (source >= 0) & (source <= side)
        weights = [torch.from_numpy((each * seen).astype(np.int32)) for each in (FINE - second, second)]
        self._pixels = (*index, *weights)
        line = (scale[:, 0], (1 - scale[:, 0]) * place[:, 0])
        self._lines = tuple(torch.from_numpy(each.astype(np.float32)) for each in line)
        self._there: dict[torch.device, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {}

    def _on(self, device: torch.device) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        if device not in self._there:
            self._there[device] = (tuple(t.to(device) for t in self._pixels), tuple(t.to(device) for t in self._lines))
        return self._there[device]

    def pixels(self, device: torch.device) -> tuple[Tensor, ...]:
        """The two pixels that a pixel is made of, int64, and their weights in parts of 256, int32, zeros where it is
        outside of the image; [zooms, side] each."""
        return self._on(device)[0]

    def lines(self, device: torch.device) -> tuple[Tensor, ...]:
        """Scale and shift of places, float32 [zooms] each."""
        return self._on(device)[1]

    def nearest(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the two pixels the one of more weight, int64, and whether a pixel is in the image, bool; [zooms, side]
        each."""
        first, second, before, behind = self.pixels(device)
        return torch.where(behind > before, second, first), before + behind > 0
