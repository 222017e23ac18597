"""One image: the kinds that are read, what its header says, and its pixels by Pillow.

Pillow knows some forty kinds, and one of them hands the file to another program; only those that people have are tried.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from io import BytesIO
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from kdcompress.data.fit import Fit, placed

SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
AVIF = ["AVIF"] if find_spec("PIL.AvifImagePlugin") else []  # since Pillow 11.3
FORMATS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", *AVIF]  # Pillow's names; a JPEG may be an MPO
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 are turned by a quarter
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTERS = (5, 6, 7, 8)  # that turn by a quarter
MOST_PIXELS = 178_956_970  # of an image, half a GiB at 3 bytes each: where Pillow itself refuses
TOO_LARGE = f"more than {MOST_PIXELS:,} pixels, the most that an image may have: make it smaller"
LARGE = 2**26  # pixels
LONG = 8  # times as long as wide

warnings.filterwarnings("ignore", module=r"PIL\.")  # of half as many pixels and broken EXIF: not for users


class Header(NamedTuple):
    width: int
    height: int
    grey: bool
    jpeg: bool  # of a kind that torchvision decodes, neither large nor long


def opened(file: IO[bytes]) -> Image.Image:
    """Raises ValueError for what is not of ``FORMATS``, has too many pixels or more than 8 bits a channel."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        begins = f"it begins with {start!r}" if (start := file.read(16)) else "it is empty"
        raise ValueError(f"not an image of a kind that is read ({', '.join(FORMATS)}), or broken: {begins}") from None
    except Image.DecompressionBombError:
        raise ValueError(TOO_LARGE) from None
    if image.width * image.height > MOST_PIXELS:  # where Pillow's limit was lifted
        raise ValueError(TOO_LARGE)
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode}; 8 bits per channel are needed")
    return image


def header(file: IO[bytes]) -> Header:
    """Raises ValueError as ``opened`` does, and what Pillow's readers raise for a broken file."""
    with opened(file) as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size is the turned one in some versions of Pillow
            width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
            turn = image.tag_v2.get(ORIENTATION, 1)
        else:
            (width, height), turn = image.size, orientation(image)
        jpeg = image.format == "JPEG" and image.mode in ("L", "RGB") and not cut_at_once(width, height)
        grey = image.mode in ("1", "L", "LA")
        return Header(height, width, grey, jpeg) if turn in QUARTERS else Header(width, height, grey, jpeg)


def cut_at_once(width: int, height: int) -> bool:
    """Whether an image is large or long, so that it is cut and resized in one step."""
    return width * height > LARGE or max(width, height) > LONG * min(width, height)


def pixels(data: bytes, shape: tuple[int, ...], fit: Fit = "crop") -> np.ndarray:
    """A file's pixels by Pillow, uint8 [H, W, C], turned as its EXIF says: for an image that is large or long, so that
    it costs no more than its own pixels and the result's, of ``shape``, or of the size that it has in such a frame,
    without bars; of its own height and width for another."""
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    with opened(BytesIO(data)) as image:
        turn = orientation(image)
        at_once = cut_at_once(*image.size) and (width, height) not in (image.size, image.size[::-1])
        frame = (width, height) if turn in QUARTERS else (height, width)  # of the image as it is in the file
        goal = frame if fit == "crop" else placed((image.height, image.width), frame, fit).resized
        if at_once and image.format == "JPEG":
            image.draft(None, (2 * goal[1], 2 * goal[0]))  # to a half, a quarter or an eighth that is no smaller
        image.load()
        found: Image.Image = image if image.mode == mode else image.convert(mode)
        if at_once:
            box = middle(found.width, found.height, frame) if fit == "crop" else None
            found = found.resize(goal[::-1], Image.Resampling.BILINEAR, box)
        if turn in TURNS:
            found = found.transpose(TURNS[turn])
        array = np.array(found)
    return array.reshape(*array.shape[:2], channels)


def middle(width: int, height: int, frame: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest part in the middle that has the shape of the frame (height, width): left, top, right, bottom."""
    wide = min(width, height * frame[1] / frame[0])
    tall = min(height, width * frame[0] / frame[1])
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, left + wide, top + tall


def orientation(image: Image.Image) -> int:
    """What its EXIF says, 1 to 8; 1 where that cannot be read, and for a TIFF, which Pillow turns as it decodes it."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        turn = exif.get(ORIENTATION, 1)
    except Exception:  # of many kinds, for a broken one
        return 1
    return turn if turn in TURNS and image.format != "TIFF" else 1
