"""RandAugment (Cubuk et al., NeurIPS 2020, arXiv:1909.13719) and TrivialAugment, wide (Müller and Hutter, ICCV 2021,
arXiv:2103.10158), with the strengths of ``torchvision.transforms.v2``: which operation an image gets is a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcompress.data import operations as op
from kdcompress.data.likened import likened
from kdcompress.data.rows import OnDevice, changed
from kdcompress.recipe.augment import Augment, Operations, Second

BINS = 31  # of strength
DRAWN = tuple(range(3, BINS, 3))  # where RandAugment draws it
MOVING = ("shear x", "shear y", "translate x", "translate y", "rotate")
COLOURING = ("brightness", "colour", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize")


@dataclass(frozen=True)
class Strengths:
    """The largest ones: of a shear, of a shift in pixels, of a turn in degrees, of what makes an image lighter and the
    like, and how many bits are left out."""

    shear: float
    shift: tuple[float, float]  # along x, along y
    turn: float
    light: float
    bits: int


class Policy:
    """``layers`` operations, one after the other. A number, int64 from 0 to ``count`` - 1, says which; mixed radix, the
    first layer's the fastest, each (operation * strengths + strength) * 2 + whether it is negative. 0: none. Strengths
    are those for images of ``size``, and applied to images of the size ``own``.

    Operations: identity, those of ``MOVING``, those of ``COLOURING``; all alike frequent. ``bins``: the strengths that
    there are, of 0 to 30."""

    def __init__(
        self,
        operations: Operations,
        strengths: Strengths,
        bins: tuple[int, ...],
        layers: int,
        size: tuple[int, int],
        own: tuple[int, int] | None = None,
    ):
        self.names = ("identity", *(MOVING if operations == "all" else ()), *COLOURING)
        self.bins, self.layers, self.strengths, self.size, self.own = bins, layers, strengths, size, own or size
        self.each = len(self.names) * len(bins) * 2
        self.count = self.each**layers
        settings = [self._setting(*self.read(number)) for number in range(self.each)]
        kinds = [self.names.index(self.read(number)[0]) for number in range(self.each)]
        self._tables = OnDevice(torch.tensor(kinds), torch.tensor(settings, dtype=torch.int32))

    def read(self, number: int) -> tuple[str, float]:
        """The operation of one layer's number, and its signed strength from -1 to 1."""
        rest, negative = divmod(number, 2)
        kind, strength = divmod(rest, len(self.bins))
        return self.names[kind], self.bins[strength] / (BINS - 1) * (-1 if negative else 1)

    def magnitude(self, name: str, strength: float) -> float:
        """What torchvision calls an operation's magnitude: signed pixels, degrees, bits or a threshold."""
        s = self.strengths
        largest = {"shear x": s.shear, "shear y": s.shear, "rotate": s.turn, "posterize": s.bits, "solarize": 255}
        largest |= {"translate x": s.shift[0], "translate y": s.shift[1]}
        found = strength * largest.get(name, s.light)
        if name.startswith("translate"):
            return int(found)
        if name == "posterize":
            return 8 - round(abs(found))
        return 255 - abs(found) if name == "solarize" else found

    def _setting(self, name: str, strength: float) -> list[int]:
        """Six numbers: a matrix, or one parameter and zeros."""
        height, width = self.own
        by = self.magnitude(name, strength)
        if name.startswith("translate"):
            axis = 1 if name.endswith("x") else 0
            by = likened(int(by), self.size[axis], self.own[axis])
        sine, cosine = math.sin(math.radians(by)), math.cos(math.radians(by))
        matrices = {
            "shear x": (1, by, by * height / 2, 0, 1, 0),
            "shear y": (1, 0, 0, by, 1, by * width / 2),
            "translate x": (1, 0, -by, 0, 1, 0),
            "translate y": (1, 0, 0, 0, 1, -by),
            "rotate": (cosine, -sine, 0, sine, cosine, 0),
        }
        if name in matrices:
            return [round(op.FINE * part) for part in matrices[name]]
        if name in ("posterize", "solarize"):
            return [math.ceil(by - 1e-9), 0, 0, 0, 0, 0]
        return [round(op.ONE * (1 + by)), 0, 0, 0, 0, 0]

    def apply(self, images: Tensor, number: Tensor) -> Tensor:
        """uint8 [B, C, H, W] by ``number`` [B, 1]."""
        number, images = number.view(-1), images.clone()
        for _ in range(self.layers):
            images = self._layer(images, number % self.each)
            number = number // self.each
        return images

    def _layer(self, images: Tensor, number: Tensor) -> Tensor:
        kinds, settings = self._tables(images.device)
        kind, setting = kinds[number], settings[number]
        if "rotate" in self.names:
            shifted = (kind > 0) & (kind <= len(MOVING))
            images = changed(images, shifted, setting, op.moved)
        for name, change in CHANGES.items():
            images = changed(images, kind == self.names.index(name), setting[:, 0], change)
        return images


CHANGES = {
    "brightness": op.brighter,
    "colour": op.coloured,
    "contrast": op.contrasted,
    "sharpness": op.sharpened,
    "posterize": op.posterized,
    "solarize": op.solarized,
    "autocontrast": lambda images, _: op.stretched(images),
    "equalize": lambda images, _: op.equalized(images),
}


def policy(views: Augment | Second, height: int, width: int, own: tuple[int, int] | None = None) -> Policy | None:
    """What ``trivial`` or ``randaugment`` ask for of images of ``height`` x ``width``, applied to those of the size
    ``own``; None where neither does."""
    size = height, width
    if views.trivial != "off":
        wide = Strengths(0.99, (32.0, 32.0), 135.0, 0.99, 6)
        return Policy(views.trivial, wide, tuple(range(BINS)), 1, size, own)
    if asked := views.randaugment:
        usual = Strengths(0.3, (150 / 331 * width, 150 / 331 * height), 30.0, 0.9, 4)
        bins = DRAWN if asked.m is None else (asked.m,)
        return Policy(asked.operations, usual, bins, asked.n, size, own)
    return None
