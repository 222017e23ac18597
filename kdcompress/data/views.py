"""Batched augmentation in which every view of an image has a number, so that it can be made again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcompress.errors import UsageError
from kdcompress.recipe import Augment


class Views:
    """The views of an image of ``height`` x ``width`` pixels under an ``Augment``.

    A view is a shift (dy, dx) of -crop to +crop pixels with zeros moving in, that is a random crop of the
    image padded with ``crop`` zeros; then perhaps a horizontal flip; then perhaps a square of ``cutout`` pixels
    a side set to zero, its centre anywhere in the image and its border clipped to it.

    View ids are 0 to ``count`` - 1, each with the same probability; mixed radix, the first digit the fastest:
    dx and dy counted upwards from 0 with -1 as the last, flip, cutout (0 none, else 1 + y * width + x).
    ``identity`` is 0 whatever the augmentation: the image as it is.
    """

    identity = 0

    def __init__(self, augment: Augment, height: int, width: int):
        if augment.crop >= min(height, width):
            raise UsageError(
                "The crop can move the image out of sight.",
                where="data.augment.crop",
                got=augment.crop,
                allowed=f"less than {min(height, width)}, the image's side",
            )
        self.crop, self.flip, self.cutout = augment.crop, augment.flip, augment.cutout
        self.height, self.width = height, width
        self.shifts = 2 * augment.crop + 1
        self.flips = 2 if augment.flip else 1
        self.holes = height * width + 1 if augment.cutout else 1
        self.count = self.shifts**2 * self.flips * self.holes

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` random view ids, int64 [n] on the generator's device."""
        return torch.randint(self.count, (n,), generator=generator, device=generator.device)

    def own(self, n: int) -> tuple[Tensor, Tensor]:
        """For each of ``n`` images a series of views, in which any ``count`` that follow each other are different:
        (start + k * stride) % count for k = 0, 1, ... Returns start and stride, int64 [n] each, always the same."""
        generator = torch.Generator().manual_seed(0)
        start, stride = self.draw(n, generator), self.draw(n, generator)
        while len(short := (torch.gcd(stride, torch.tensor(self.count)) > 1).nonzero()[:, 0]):  # comes back too soon
            stride[short] = self.draw(len(short), generator)
        return start, stride

    def apply(self, images: Tensor, view: Tensor) -> Tensor:
        """uint8 [B, C, H, W] and int64 [B] view ids -> uint8 [B, C, H, W], on the images' device.

        Each output depends on its own image and id alone. ``view`` has to be on the same device. An id that is
        out of range raises ValueError on a CPU; on other devices it is not looked at, as that would wait for them.
        """
        batch, channels, height, width = images.shape
        if (height, width) != (self.height, self.width):
            raise ValueError(f"images of {height} x {width}, views of {self.height} x {self.width}")
        if view.device.type == "cpu" and batch and not 0 <= int(view.min()) <= int(view.max()) < self.count:
            raise ValueError(f"view ids are 0 to {self.count - 1}, got {int(view.min())} to {int(view.max())}")
        if self.count == 1:
            return images
        view, dx = divide(view, self.shifts)
        view, dy = divide(view, self.shifts)
        hole, flip = divide(view, self.flips)
        out = images
        if self.crop or self.flip:
            p, padded_width = self.crop, width + 2 * self.crop
            rows = (dy + p) % self.shifts + torch.arange(height, device=images.device)
            columns = torch.arange(width, device=images.device)
            if self.flip:
                columns = torch.where(flip.bool(), width - 1 - columns, columns)
            columns = (dx + p) % self.shifts + columns
            index = (rows * padded_width)[:, :, None] + columns[:, None, :]
            index = index.flatten(1)[:, None].expand(-1, channels, -1)
            padded = F.pad(images, (p, p, p, p)) if p else images
            out = padded.flatten(2).gather(2, index).view(batch, channels, height, width)
        if self.cutout:
            y, x = divide(hole - 1, width)
            keep = outside(y, self.cutout, height)[:, :, None] | outside(x, self.cutout, width)[:, None, :]
            out = out * (keep | (hole == 0)[:, :, None])[:, None]
        return out


def divide(number: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of int64 [B] or [B, 1], as [B, 1] columns."""
    number = number.view(-1, 1)
    quotient = number // by
    return quotient, number - quotient * by


def outside(centre: Tensor, side: int, length: int) -> Tensor:
    """bool [B, length]: the places that a stretch of ``side`` places around ``centre`` [B, 1] does not cover."""
    distance = torch.arange(length, device=centre.device) - (centre - side // 2)
    return (distance < 0) | (distance >= side)
