"""An image with boxes, masks or classes on it, as an address that holds it: a page that shows it asks nobody for it."""

from __future__ import annotations

import base64
import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SMALLEST, LARGEST = 192, 320  # of a picture's longer side, pixels
# By Okabe and Ito: told apart by those who see few colours, too. All are light enough for black text.
COLOURS = {"truth": "#f0e442", "missed": "#f0e442", "right": "#56b4e9", "wrong": "#d55e00"}
VEIL = {"truth": 130, "missed": 70, "right": 130, "wrong": 130}  # of 255: how much a mask hides
DASHED = ("missed",)
DASH = 5  # pixels, and as much between two
LINE, EDGE = 2, 1  # widths: of a line, and of the black to both sides of it, for light images
OPAQUE, GREY = 0.6, 128.0  # of a class's colour, and what is ignored
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A box (x1, y1, x2, y2) in pixels of the image, half-open, with a few words; and a ``mask``, bool [H, W]."""

    box: Box
    kind: Literal["truth", "missed", "right", "wrong"]
    text: str = ""
    mask: np.ndarray | None = None


def picture(pixels: np.ndarray, marks: Sequence[Mark]) -> str:
    """A data URI of an image, uint8 [H, W, C], with its marks; the first are on top. C of 1 or 2 is grey, else RGB."""
    from PIL import Image, ImageDraw

    height, width = pixels.shape[:2]
    factor = scale(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    channels = pixels[..., :3] if pixels.shape[2] > 2 else np.repeat(pixels[..., :1], 3, axis=2)
    resample = Image.Resampling.NEAREST if factor >= 1 and factor == int(factor) else Image.Resampling.LANCZOS
    image = Image.fromarray(np.ascontiguousarray(channels)).resize(size, resample)
    for mark in reversed(marks):
        if mark.mask is not None:
            veil = Image.fromarray(np.where(mark.mask, VEIL[mark.kind], 0).astype(np.uint8))
            image.paste(Image.new("RGB", size, COLOURS[mark.kind]), mask=veil.resize(size, Image.Resampling.BILINEAR))
    draw = ImageDraw.Draw(image)
    each = [(mark, scaled(mark.box, size[0] / width, size[1] / height, size)) for mark in marks]
    for mark, box in reversed(each):
        _outline(draw, box, COLOURS[mark.kind], mark.kind in DASHED)
    taken: list[Box] = []
    for mark, box in each:
        if mark.text:
            _tag(draw, mark.text, box, COLOURS[mark.kind], size, taken)
    return address(image)


def scale(height: int, width: int) -> float:
    """By how much an image is enlarged: a whole number, where the picture is not too large then."""
    longer = max(height, width)
    return min(max(1, math.ceil(SMALLEST / longer)), LARGEST / longer)


def scaled(box: Box, x: float, y: float, size: tuple[int, int]) -> Box:
    """The first and the last pixels of a box in the picture, all inside it."""
    x1, y1, x2, y2 = (round(float(value) * factor) for value, factor in zip(box, (x, y, x, y), strict=True))
    x1, y1 = min(max(x1, 0), size[0] - 1), min(max(y1, 0), size[1] - 1)
    return x1, y1, min(max(x2 - 1, x1), size[0] - 1), min(max(y2 - 1, y1), size[1] - 1)


def address(image: Image) -> str:
    """The image as WebP, or as PNG where Pillow cannot write that."""
    from PIL import features

    kind, options = ("webp", {"quality": 75, "method": 4}) if features.check("webp") else ("png", {"optimize": True})
    file = BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _outline(draw: ImageDraw, box: Box, colour: str, dashed: bool) -> None:
    x1, y1, x2, y2 = box
    if not dashed:
        draw.rectangle((x1 - EDGE, y1 - EDGE, x2 + EDGE, y2 + EDGE), outline="black", width=LINE + 2 * EDGE)
        draw.rectangle(box, outline=colour, width=LINE)
        return
    for shade, width in (("black", LINE + 2 * EDGE), (colour, LINE)):
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
            for a, b in dashes(start, end):
                draw.line((*a, *b), fill=shade, width=width)


def dashes(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[tuple[float, float], ...]]:
    """The pieces of a line that are drawn: one at each end, and between them in turns."""
    (x, y), long = start, max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    turns = max(1, round((long / DASH - 1) / 2) * 2 + 1)  # odd: it ends as it begins
    step = (end[0] - x) / turns, (end[1] - y) / turns
    return [
        ((x + i * step[0], y + i * step[1]), (x + (i + 1) * step[0], y + (i + 1) * step[1])) for i in range(0, turns, 2)
    ]


def _tag(draw: ImageDraw, text: str, box: Box, colour: str, size: tuple[int, int], taken: list[Box]) -> None:
    """The text at the first place along the box that no other has; nowhere, where all are taken."""
    font = _font(max(size))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 6, bottom - top + 5
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - high), (x1, y1), (x2 - wide, y2), (x1, y2 - high), (x2 - wide, y1 - high), (x2 - wide, y1)]
    corners += [(x2 + 1, y1), (x2 + 1, y2 - high), (x1 - wide, y1), (x1 - wide, y2 - high)]
    places = []
    for x, y in corners:
        x, y = max(0, min(x, size[0] - wide)), max(0, min(y, size[1] - high))
        places.append((x, y, x + wide, y + high))
    place = next((place for place in places if not any(_touch(place, other) for other in taken)), None)
    if place is None:
        return
    taken.append(place)
    draw.rectangle(place, fill=colour, outline="black")
    draw.text((place[0] + 3 - left, place[1] + 3 - top), text, fill="black", font=font)


def _font(longer: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(max(12, round(longer / 19)))


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def painted(pixels: np.ndarray, classes: np.ndarray, names: Mapping[int, str], ignored: int) -> str:
    """A data URI of an image, uint8 [H, W, C], its classes uint8 [H, W] in colour over it: those that have a name, with
    a tag where most of each is. What is ``ignored`` is grey."""
    from PIL import Image, ImageDraw

    height, width = pixels.shape[:2]
    channels = pixels[..., :3] if pixels.shape[2] > 2 else np.repeat(pixels[..., :1], 3, axis=2)
    made = channels.astype(np.float32)
    there = [(number, classes == number) for number in np.unique(classes).tolist() if number in names]
    for number, where in there:
        made[where] = (1 - OPAQUE) * made[where] + OPAQUE * np.array(colour(number), np.float32)
    made[classes == ignored] = (1 - OPAQUE) * made[classes == ignored] + OPAQUE * GREY
    factor = scale(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resample = Image.Resampling.NEAREST if factor >= 1 and factor == int(factor) else Image.Resampling.LANCZOS
    image = Image.fromarray(made.round().astype(np.uint8)).resize(size, resample)
    draw, taken = ImageDraw.Draw(image), list[Box]()
    for number, where in sorted(there, key=lambda each: -int(each[1].sum())):
        rows, columns = np.nonzero(where)
        y = int(np.median(rows))
        x = int(np.median(columns[rows == y])) if (rows == y).any() else int(np.median(columns))
        box = (round(x * factor), round(y * factor), round(x * factor) + 1, round(y * factor) + 1)
        _tag(draw, names[number], box, "#{:02x}{:02x}{:02x}".format(*colour(number)), size, taken)
    return address(image)


def colour(number: int) -> tuple[int, int, int]:
    """Of a class, light enough for black text: hues by the golden angle, so that neighbours differ."""
    red, green, blue = colorsys.hls_to_rgb(number * 0.381966 % 1, 0.68 if number % 2 else 0.6, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
