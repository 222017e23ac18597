"""Scenes made of real garments: pictures with several objects, their exact boxes and their exact masks.

A scene is a function of its key, the same to the bit on every machine: all draws are raw 64-bit words, which NumPy
keeps between versions, and all arithmetic is that of integers. Where float32 is used, for its fast matrix products, it
holds integers below 2^24, so that no order of adding changes a sum.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kdcompress.data.objects import rows

SIDE = 28  # of a garment's image, pixels
EMPTY = 8  # the largest value of a pixel that is no garment's
MOST = 6  # garments
SMALLEST, LARGEST = 3, 9  # of a garment's side, in sixteenths of the picture's shorter one
OUTSIDE = 6  # up to 1 / 6 of a side lies outside of the picture
VISIBLE = 4  # an object shows at least 1 / 4 of its pixels
FEWEST = 25  # and so many, in a picture of 128 x 128
CELLS = ((3, 8), (6, 4), (12, 2), (24, 1))  # of the background's noise: cells a side, weight
SHADES = 240  # between the two colours of a background
PART = 64  # parts of a pixel, in a resize


@dataclass(frozen=True, eq=False)
class Garments:
    """``images`` uint8 [G, 28, 28], ``solid`` bool of the same shape: the garments with their holes, ``classes`` int64
    [G]."""

    images: np.ndarray
    solid: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, classes: np.ndarray) -> Garments:
        return cls(images, filled(images > EMPTY), classes)

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, indices: np.ndarray) -> Garments:
        return Garments(self.images[indices], self.solid[indices], self.classes[indices])


@dataclass(frozen=True, eq=False)
class Scene:
    """``pixels`` uint8 [H, W, 3]; of its m objects, ``objects`` float32 [m, 6] (objects.py), the tight boxes of
    ``masks`` bool [m, H, W], what is seen of each; and ``garments`` int64 [m], which they are."""

    pixels: np.ndarray
    objects: np.ndarray
    masks: np.ndarray
    garments: np.ndarray


def scene(garments: Garments, key: object, height: int = 128, width: int = 128) -> Scene:
    """1 to 6 garments at random places, in random sizes and colours, some in front of others, before a background.

    A garment of which less than a quarter is seen, or too few pixels, is left out. A garment's hole is part of it.
    """
    words = np.random.PCG64(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:16], "little"))
    pixels = background(words, height, width)
    free = np.ones((height, width), bool)  # of garments farther in front
    fewest = max(4, FEWEST * min(height, width) ** 2 // 128**2)
    found = []
    for _ in range(1 + below(words.random_raw(), MOST)):  # from the front to the back
        which, side, top, left, turned, *tint = _draw(words, len(garments), height, width)
        shades, mask = _resized(garments, which, side, bool(turned))
        y, x = max(top, 0), max(left, 0)
        part = slice(y - top, height - top), slice(x - left, width - left)
        shown = mask[part]
        here = slice(y, y + shown.shape[0]), slice(x, x + shown.shape[1])
        shown = shown & free[here]
        count = int(shown.sum())
        if count < fewest or count * VISIBLE < int(mask.sum()):
            continue
        free[here] &= ~shown
        colours = (np.arange(256)[:, None] * tint // 255).astype(np.uint8)
        pixels[here][shown] = colours[shades[part][shown]]
        whole = np.zeros((height, width), bool)
        whole[here] = shown
        found.append((whole, which))
    masks = np.array([mask for mask, _ in found], bool).reshape(-1, height, width)
    chosen = np.array([which for _, which in found], np.int64)
    return Scene(grained(pixels, words), rows(tight(masks), garments.classes[chosen]), masks, chosen)


def tight(masks: np.ndarray) -> np.ndarray:
    """The smallest boxes around masks bool [m, H, W] that are not empty, int64 [m, 4]."""
    down, along = np.any(masks, axis=2), np.any(masks, axis=1)
    ends = (side.shape[1] - side[:, ::-1].argmax(1) for side in (along, down))
    return np.stack([along.argmax(1), down.argmax(1), *ends], 1)


def filled(solid: np.ndarray) -> np.ndarray:
    """bool [N, 28, 28] with their holes: places from which no way of zeros, up, down, left or right, leads outside."""
    bits = 1 << np.arange(1, SIDE + 1, dtype=np.uint32)
    empty: np.ndarray = np.full(
        (len(solid), SIDE + 2), 2 ** (SIDE + 2) - 1, np.uint32
    )  # a row's pixels are the bits of a number
    empty[:, 1:-1] -= (solid * bits).sum(2, dtype=np.uint32)
    outside = np.zeros_like(empty)
    outside[:, 0], outside[:, -1], outside[:, 1:-1] = empty[:, 0], empty[:, -1], 1 + 2 ** (SIDE + 1)
    while True:
        grown = outside | outside << 1 | outside >> 1
        grown[:, 1:] |= outside[:, :-1]
        grown[:, :-1] |= outside[:, 1:]
        grown &= empty
        if np.array_equal(grown, outside):
            return np.equal(outside[:, 1:-1, None] & bits, 0)
        outside = grown


def background(words: np.random.PCG64, height: int, width: int) -> np.ndarray:
    """Smooth noise between two colours, and in half of the pictures stripes between two others; uint8 [H, W, 3]."""
    noise = np.zeros((height, width), np.float32)
    for cells, weight in CELLS:
        values = drawn(words, (cells + 1) ** 2).reshape(cells + 1, -1).astype(np.float32)
        noise += weight * (_between(height, cells) @ values @ _between(width, cells).T)
    shade = noise.astype(np.int32) >> 16  # up to 255 * 64^2 * 15 / 2^16 = 239
    shade = np.clip(2 * shade - SHADES // 2, 0, SHADES)
    ends = drawn(words, 12).astype(np.int32).reshape(2, 2, 1, 3)
    steps = np.arange(SHADES + 1)[:, None]
    colours = (ends[:, 0] * (SHADES - steps) + ends[:, 1] * steps) // SHADES
    striped, down, along, period = words.random_raw(4)
    if below(striped, 2):
        y, x = np.arange(height)[:, None] * (1 + below(down, 4)), np.arange(width) * (below(along, 9) - 4)
        period = 2 * (4 + below(period, 3 * min(height, width) // 16))
        shade = shade + (SHADES + 1) * ((y + x) % period < period // 2)
    return colours.astype(np.uint8).reshape(-1, 3)[shade]


def grained(pixels: np.ndarray, words: np.random.PCG64) -> np.ndarray:
    """With noise as of a sensor: near to normal, its deviation 4 grey levels."""
    four = drawn(words, 4 * pixels.size).reshape(4, *pixels.shape)
    noise = four[0].astype(np.int16)
    for more in four[1:]:
        noise += more
    noise -= 510  # a deviation of 147.8
    return np.clip(pixels + ((noise * 7 + 128) >> 8), 0, 255).astype(np.uint8)


def below(word: int, most: int) -> int:
    """One of 0 to ``most`` - 1, by a word of 64 bits."""
    return (int(word) >> 32) * most >> 32


def drawn(words: np.random.PCG64, count: int) -> np.ndarray:
    """Random bytes, uint8 [count]."""
    return words.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count]


def _draw(words: np.random.PCG64, garments: int, height: int, width: int) -> tuple[int, ...]:
    """Which garment, its side, top, left, whether it is turned, and its three colours."""
    which, side, top, left, turned, *tint = words.random_raw(8)
    sides, shares = _sides(min(height, width))
    side = sides[np.searchsorted(shares, below(side, int(shares[-1])), "right")]
    margin = side // OUTSIDE
    top, left = (
        below(word, length - side + 2 * margin + 1) - margin for word, length in ((top, height), (left, width))
    )
    return below(which, garments), int(side), int(top), int(left), below(turned, 2), *(64 + below(t, 192) for t in tint)


@lru_cache
def _sides(shorter: int) -> tuple[np.ndarray, np.ndarray]:
    """The sides that a garment may have, each as likely as it is short, and the sums of their shares."""
    sides = np.arange(max(6, SMALLEST * shorter // 16), max(6, LARGEST * shorter // 16) + 1)
    return sides, np.cumsum(10**6 // sides)


def _resized(garments: Garments, which: int, side: int, turned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Values 40 to 255 and mask of a garment, [side, side] each, bilinear."""
    step = -1 if turned else 1
    to = _resize(side)
    values, solid = (
        to @ each[which, :, ::step].astype(np.float32) @ to.T for each in (garments.images, garments.solid)
    )
    shades = 40 + ((values.astype(np.int32) + PART**2 // 2) // PART**2 * 215 + 127) // 255
    return shades, solid >= PART**2 // 2


@lru_cache(256)
def _resize(side: int) -> np.ndarray:
    """What each of ``side`` pixels takes of the 28, in parts of 64: float32 [side, 28]."""
    fine = (2 * np.arange(side) + 1) * SIDE * PART // (2 * side) - PART // 2
    return _weights(np.clip(fine, 0, (SIDE - 1) * PART), SIDE)


@lru_cache(64)
def _between(length: int, cells: int) -> np.ndarray:
    """What each of ``length`` pixels takes of the values at the cells' corners: float32 [length, cells + 1]."""
    return _weights(np.arange(length) * cells * PART // length, cells + 1)


def _weights(fine: np.ndarray, count: int) -> np.ndarray:
    near, part = np.divmod(fine, PART)
    made = np.zeros((len(fine), count + 1), np.float32)
    made[np.arange(len(fine)), near] = PART - part
    made[np.arange(len(fine)), near + 1] = part
    return made[:, :count].copy()
