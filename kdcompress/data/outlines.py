"""Masks as COCO's files have them, polygons or a run-length code in pixels of their image; and in a network's input."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcompress.data.fit import Placed
from kdcompress.data.outlined import code, codes

Outline = list[list[float]] | dict[str, Any]
LARGEST = 2**31  # pixels of a mask


def outline_of(segmentation: Any) -> Outline | None:
    """Polygons, each [x, y, x, y, ...] of three corners and more; or a code {"size": [height, width], "counts": [...]},
    how many pixels are outside and inside in turns, column by column. None of what is neither."""
    if isinstance(segmentation, list):
        plain = [[float(value) for value in each] for each in segmentation if _corners(each)]
        return plain if plain and len(plain) == len(segmentation) else None
    if not isinstance(segmentation, dict):
        return None
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if isinstance(counts, str):
        counts = uncompressed(counts)
    if not (isinstance(size, list) and len(size) == 2 and isinstance(counts, list)):
        return None
    whole = all(type(each) is int and 0 <= each < LARGEST for each in (*size, *counts))
    return {"size": size, "counts": counts} if whole and sum(counts) == size[0] * size[1] < LARGEST else None


def uncompressed(text: str) -> list[int] | None:
    """The counts in a code of COCO's: numbers of 5 bits a character, from the third on the difference to the last but
    one. None where it is no such code."""
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = shift = 0
    return None if shift else counts


def size_of(outline: Outline) -> list[int] | None:
    """Height and width of the image that a code is of."""
    return outline["size"] if isinstance(outline, dict) else None


def coded(outline: Outline, place: Placed) -> bytes:
    """The mask in the frame, as ``data.outlined`` keeps it. Polygons are filled there, as COCO fills them; of a code
    the nearest pixels are taken."""
    height, width = place.frame
    if isinstance(outline, dict):
        return codes(framed(decoded(outline), place)[None])[0]
    most = np.array(place.source[::-1], float)  # width, height
    corners = [np.clip(np.reshape(each, (-1, 2)), 0, most) for each in outline]
    moved = [place.there(np.tile(each, 2))[:, :2].reshape(-1).tolist() for each in corners]
    filled = code().frPyObjects(moved, height, width)
    found: bytes = code().merge(filled)["counts"]
    return found


def decoded(outline: dict[str, Any]) -> np.ndarray:
    """A code's mask, bool [height, width]."""
    height, width = outline["size"]
    counts = outline["counts"]
    line = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return line.reshape(width, height).T


def framed(mask: np.ndarray, place: Placed) -> np.ndarray:
    """A mask bool [height, width] of an image, bool in the frame: of each pixel's middle the nearest."""
    found = np.zeros(place.frame, bool)
    (down, first_row), (along, first_column) = (
        _nearest(place.source[k], place.resized[k], place.corner[k], place.frame[k]) for k in (0, 1)
    )
    part = mask[np.ix_(down, along)]
    found[first_row : first_row + len(down), first_column : first_column + len(along)] = part
    return found


def _nearest(source: int, resized: int, corner: int, frame: int) -> tuple[np.ndarray, int]:
    """Which of the source's pixels a side of the frame shows, and where they begin."""
    start, end = max(corner, 0), min(corner + resized, frame)
    return (2 * (np.arange(start, end) - corner) + 1) * source // (2 * resized), start


def _corners(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    return all(type(each) in (int, float) and -LARGEST < each < LARGEST for each in polygon)
