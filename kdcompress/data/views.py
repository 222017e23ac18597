"""Batched augmentation in which every view of an image has a number, so that it can be made again."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcompress.class_maps import IGNORED
from kdcompress.data.blur import Blurs
from kdcompress.data.colour import Colour
from kdcompress.data.erasing import Erasing
from kdcompress.data.likened import likened
from kdcompress.data.objects import BOX, CLASS, CROWD, KIND, NOTHING, WIDTH
from kdcompress.data.policy import Policy, policy
from kdcompress.data.rows import AT_ONCE
from kdcompress.data.zoom import Zoom, resized_crops, zooms
from kdcompress.errors import UsageError
from kdcompress.recipe.augment import Augment, Second

SEEN = 0.25  # the share of an object's area that has to be in the image


class Views:
    """The views of an image of ``height`` x ``width`` pixels under an ``Augment``.

    A view is the image in another light (colour.py), and from nearer or farther or a resized part of it (zoom.py), as
    far as the augmentation has them; then a shift (dy, dx) of -crop to +crop pixels with zeros moving in, that is a
    random crop of the image padded with ``crop`` zeros; then perhaps a horizontal flip; then the operations of a policy
    (policy.py) and a blur (blur.py); then perhaps a square of ``cutout`` pixels a side set to zero, its centre anywhere
    in the image and its border clipped to it, and a rectangle (erasing.py).

    View ids are 0 to ``count`` - 1, each with the same probability; mixed radix, the first digit the fastest:
    dx and dy counted upwards from 0 with -1 as the last, flip, cutout (0 none, else 1 + y * width + x), zoom, colour,
    policy, blur, rectangle; and with ``augment.second`` those three of the second view, which has them more than the
    first: the ids below ``first`` are those of first views, which have none of them.
    ``identity`` is 0 whatever the augmentation: the image as it is.

    ``like``: [H, W, C] of the student's images, where these are the same ones as a teacher sees them, of the same shape
    in another size or with other channels. Then the numbers, and all that is counted in pixels, are the student's, and
    a number shows the same part of both.
    """

    identity = 0

    def __init__(
        self, augment: Augment, height: int, width: int, channels: int = 3, like: tuple[int, ...] | None = None
    ):
        own = height, width
        height, width, numbered = like or (height, width, channels)
        if augment.crop >= min(height, width):
            raise UsageError(
                "The crop can move the image out of sight.",
                where="data.augment.crop",
                got=augment.crop,
                allowed=f"less than {min(height, width)}, the image's side",
            )
        self.crop, self.flip, self.cutout = augment.crop, augment.flip, augment.cutout
        self.height, self.width = own
        self.like = height, width
        self.shifts = 2 * augment.crop + 1
        self.flips = 2 if augment.flip else 1
        self.holes = height * width + 1 if augment.cutout else 1
        scales = zooms(augment.scale) or resized_crops(augment.resized_crop, height, width)
        self.zoom, self.colour = Zoom(scales, *own), Colour(augment.colour, channels, numbered)
        self.first = self.shifts**2 * self.flips * self.holes * self.zoom.count * self.colour.count
        self.changes: list[Policy | Blurs | Erasing] = changes_of(augment, (height, width), own)
        self.first *= math.prod(change.count for change in self.changes)
        more = changes_of(augment.second, (height, width), own) if augment.second else []
        self.changes += more
        self.count = self.first * math.prod(change.count for change in more)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` random view ids, int64 [n] on the generator's device."""
        return torch.randint(self.count, (n,), generator=generator, device=generator.device)

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
        few = max(1, AT_ONCE // (channels * height * width)) if images.device.type == "cpu" else batch
        if batch <= few:
            return self._applied(images, view)
        return torch.cat([self._applied(*part) for part in zip(images.split(few), view.split(few))])

    def _applied(self, images: Tensor, view: Tensor) -> Tensor:
        height, width = images.shape[2:]
        dx, dy, flip, hole, zoom, colour, *numbers = self._digits(view)
        if self.colour.count > 1:
            images = self.colour.apply(images, colour)
        if self.zoom.count > 1:
            images = self.zoom.apply(images, zoom)
        out = self._shifted(images, dx, dy, flip)
        for kind in (Policy, Blurs, Erasing):
            for change, number in zip(self.changes, numbers):
                out = change.apply(out, number) if isinstance(change, kind) else out
        if self.cutout:
            y, x = divide(hole - 1, self.like[1])
            rows, columns = (outside(c, self.cutout, *sides) for c, sides in zip((y, x), self._sides))
            keep = rows[:, :, None] | columns[:, None, :]
            out = out * (keep | (hole == 0)[:, :, None])[:, None]
        return out

    def shown(self, masks: Tensor, view: Tensor) -> Tensor:
        """The masks of images, uint8 [B, M, H, W], where the views ``view`` (int64 [B]) show them. Cutout changes no
        mask."""
        if self.count == 1:
            return masks
        dx, dy, flip, _, zoom = self._digits(view)[:5]
        return self._shifted(self.zoom.apply(masks, zoom) if self.zoom.count > 1 else masks, dx, dy, flip)

    def mapped(self, maps: Tensor, view: Tensor) -> Tensor:
        """The class maps of images, uint8 [B, H, W], as the views ``view`` (int64 [B]) show them: of a zoom the nearest
        pixel's class, and ``IGNORED`` where zeros move in. Cutout changes no class."""
        if self.count == 1:
            return maps
        dx, dy, flip, _, zoom = self._digits(view)[:5]
        found = (IGNORED - maps)[:, None]  # so that what is ignored is what moves in
        if self.zoom.count > 1:
            found = self.zoom.nearest(found, zoom)
        return IGNORED - self._shifted(found, dx, dy, flip)[:, 0]

    def _shifted(self, images: Tensor, dx: Tensor, dy: Tensor, flip: Tensor) -> Tensor:
        """uint8 [B, C, H, W] by the digits of shift and flip; zeros move in."""
        if not (self.crop or self.flip):
            return images
        batch, channels, height, width = images.shape
        tall, wide = (-likened(-self.crop, *sides) for sides in self._sides)
        down, along = (self._shift(digit, sides) for digit, sides in zip((dy, dx), self._sides))
        padded_width = width + 2 * wide
        rows = down + tall + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        if self.flip:
            columns = torch.where(flip.bool(), width - 1 - columns, columns)
        columns = along + wide + columns
        index = (rows * padded_width)[:, :, None] + columns[:, None, :]
        index = index.flatten(1)[:, None].expand(-1, channels, -1)
        padded = F.pad(images, (wide, wide, tall, tall)) if self.crop else images
        return padded.flatten(2).gather(2, index).view(batch, channels, height, width)

    def moved(self, objects: Tensor, view: Tensor) -> Tensor:
        """The objects of images, float32 [B, M, 6 and more] (objects.py), where the views ``view``, int64 [B], show
        them.

        Boxes are clipped to the image. An object that was cut to less than ``SEEN`` of its area is ignored as a crowd
        is: what is left of it can be seen, and is too little to be asked for. Of which less than a pixel is left in
        height or width, unless it was as small before, is gone. Cutout changes no object. Further columns stay
        with their objects.
        """
        if self.count == 1:
            return objects
        dx, dy, flip, _, zoom = self._digits(view)[:5]
        dx, dy = ((d + self.crop) % self.shifts - self.crop for d in (dx, dy))
        x1, y1, x2, y2 = before = objects[..., BOX].unbind(-1)
        if self.zoom.count > 1:
            (x1, y1), (x2, y2) = self.zoom.moved(x1, y1, zoom), self.zoom.moved(x2, y2, zoom)
        whole = (x2 - x1) * (y2 - y1)
        (x1, x2), (y1, y2) = self._inside(x1, x2, y1, y2)  # zeros move in, not what the zoom moved out
        flip = flip.bool()
        x1, x2 = x1 - dx, x2 - dx
        x1, x2 = torch.where(flip, self.width - x2, x1), torch.where(flip, self.width - x1, x2)
        (x1, x2), (y1, y2) = self._inside(x1, x2, y1 - dy, y2 - dy)
        wide, tall = x2 - x1, y2 - y1
        least_wide, least_tall = ((end - start).clamp(max=1) for start, end in (before[::2], before[1::2]))
        kind = objects[..., KIND]
        kind = torch.where((kind != NOTHING) & (wide * tall < SEEN * whole), CROWD, kind)
        kind = torch.where((wide < least_wide) | (tall < least_tall), NOTHING, kind)
        made = torch.stack([x1, y1, x2, y2, objects[..., CLASS], kind], -1)
        made = torch.cat([made, objects[..., WIDTH:]], -1) * (kind != NOTHING)[..., None]
        order = (kind == NOTHING).byte().argsort(dim=1, stable=True)
        return made.gather(1, order[..., None].expand_as(made))

    def _inside(self, x1: Tensor, x2: Tensor, y1: Tensor, y2: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Sides clipped to the image."""
        return tuple(x.clamp(0, self.width) for x in (x1, x2)), tuple(y.clamp(0, self.height) for y in (y1, y2))

    @property
    def _sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The sides by which pixels are counted and the images' own: of the height, of the width."""
        return (self.like[0], self.height), (self.like[1], self.width)

    def _shift(self, digit: Tensor, sides: tuple[int, int]) -> Tensor:
        """By so many pixels, of a digit of shift."""
        return likened((digit + self.crop) % self.shifts - self.crop, *sides)

    def _digits(self, view: Tensor) -> list[Tensor]:
        """dx, dy, flip, cutout, zoom, colour and the numbers of ``changes`` of view ids, int64 [B, 1] each."""
        digits = []
        changes = (change.count for change in self.changes)
        for radix in (self.shifts, self.shifts, self.flips, self.holes, self.zoom.count, self.colour.count, *changes):
            view, digit = divide(view, radix)
            digits.append(digit)
        return digits


def changes_of(views: Augment | Second, size: tuple[int, int], own: tuple[int, int]) -> list[Policy | Blurs | Erasing]:
    """Those of pixels, in their order: of images of ``size``, applied to those of the size ``own``."""
    asked = policy(views, *size, own)
    found: list[Policy | Blurs | Erasing] = [asked] if asked else []
    found += [Blurs(views.blur, *own, own[0] / size[0])] if views.blur else []
    return found + ([Erasing(views.erasing, *size, own)] if views.erasing else [])


def check_followed(augment: Augment, truth: np.ndarray) -> None:
    """Raises UsageError where the truth of images, int64 [N], uint8 [N, K] or of places in them, cannot follow their
    views."""
    if augment.moves and truth.ndim > 2:
        raise UsageError(
            "Boxes and masks cannot follow these operations.",
            where=f"data.augment.{augment.moves}",
            got="operations that shear, shift and turn the image",
            allowed="those of colour alone; crop, flip, scale, resized_crop, colour, blur, cutout, erasing",
            hint="data.augment.trivial=colour, or operations: colour in randaugment",
        )


def divide(number: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of int64 [B] or [B, 1], as [B, 1] columns."""
    number = number.view(-1, 1)
    quotient = number // by
    return quotient, number - quotient * by


def outside(centre: Tensor, side: int, length: int, own: int) -> Tensor:
    """bool [B, own]: the places that a stretch of ``side`` of the ``length`` places around ``centre`` [B, 1] does not
    cover."""
    start, place = centre - side // 2, torch.arange(own, device=centre.device)
    return (place < likened(start, length, own)) | (place >= likened(start + side, length, own))
