"""Images whose pixels are classed by files of masks: what the sources of such files have in common.

A mask is a PNG, or another file without losses, as large as its image: of one channel or with a palette, whose values
are numbers; or in colours, of which each is a class's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from kdcompress.class_maps import IGNORED, LABELS
from kdcompress.data import kept
from kdcompress.data.annotated import Told, is_there
from kdcompress.data.decode import File, allocate, identity, in_threads, read_header, read_images
from kdcompress.data.fit import Fit, Size, frame_of, placed
from kdcompress.data.image import Header, opened
from kdcompress.data.splits import SPLITS, Listed, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

VERSION = 1  # of what a mask is read as
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Coding:
    """What a mask's pixels mean: ``values`` and ``colours`` give the class's number, or ``IGNORED``. Where there are
    colours, masks in colour and with a palette are read by them."""

    values: Mapping[int, int]
    colours: Mapping[Colour, int] = field(default_factory=dict)

    def facts(self) -> str:
        return repr((sorted(self.values.items()), sorted(self.colours.items())))


@dataclass
class Masked:
    """The files of each split, image and mask. ``problems`` make the data unusable, ``notes`` do not."""

    labels: tuple[str, ...]
    coding: Coding
    splits: dict[str, list[tuple[Path, Path]]]
    problems: Told = field(default_factory=Told)
    notes: Told = field(default_factory=Told)


class Wrong(ValueError):
    """Of a mask: ``kind`` is what it is among, such as "masks that cannot be read"."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(kind)
        self.kind, self.detail = kind, detail


def read_masked(found: Masked, data: Data, root: Path, hint: str) -> Raw:
    """The images and their class maps as ``data`` asks for them; what is around an image of another shape is ignored.

    Raises UsageError with all that is wrong, all at once, and for images that cannot be decoded.
    """
    if not 2 <= len(found.labels) <= LABELS:
        raise UsageError("This many labels cannot be told apart.", where=root, got=len(found.labels), allowed=LABELS)
    names = [name for name in SPLITS if found.splits.get(name)]
    pairs = [pair for name in names for pair in found.splits[name]]
    problems = Told({kind: list(entry) for kind, entry in found.problems.found.items()})
    images, masks = ([File(pair[place]) for pair in pairs] for place in (0, 1))
    frame = _frame(images, masks, data, problems)
    fit: Fit = data.fit or "letterbox"
    if problems.found:
        _decode_all(masks, found.coding, None, fit, problems, lambda row, classes: None)
        raise refused(problems, root, hint)
    truth = _class_maps(masks, found.coding, frame, fit, root, hint)
    ends = np.cumsum([0, *(len(found.splits[name]) for name in names)])
    listed = Listed(
        found.labels,
        {name: [image for image, _ in found.splits[name]] for name in names},
        {name: truth[start:end] for name, start, end in zip(names, ends, ends[1:])},
        str(root),
        found.notes.lines(root),
    )
    return listed.raw(read_images(images, data.size, root, fit))


def refused(problems: Told, root: Path, hint: str) -> UsageError:
    count = sum(entry[0] for entry in problems.found.values())
    lines = "\n".join(f"  - {line}" for line in problems.lines(root))
    what = "a problem" if count == 1 else f"{count:,} problems"
    return UsageError(f"The masks have {what}:\n{lines}", where=root, hint=hint)


def _frame(images: Sequence[File], masks: Sequence[File], data: Data, problems: Told) -> Size:
    """Height and width of the class maps. Adds files that are not there or cannot be read, and sizes that do not fit,
    to the problems."""
    headers = []
    for kind, files in (("images", images), ("masks", masks)):
        there = [is_there(file.path) for file in files]
        read = iter(list(in_threads(read_header, [file for file, is_in in zip(files, there) if is_in])))
        headers.append([next(read) if is_in else None for is_in in there])
        for file, header in zip(files, headers[-1]):
            if header is None:
                problems.add(f"{kind} that are not there", file)
            elif isinstance(header, str) and kind == "images":  # of masks it is told when they are decoded
                problems.add(f"{kind} that cannot be read", f"{file}: {header}")
    sizes = []
    for mask, *both in zip(masks, *headers):
        if all(isinstance(header, Header) for header in both):
            size, its = (header[:2] for header in both)  # type: ignore[index]
            sizes.append(size)
            if size != its:
                said = "{} x {}, its image {} x {}".format(*its, *size)
                problems.add("masks of another size than their images", f"{mask} ({said})")
    if data.size is not None:
        return frame_of(data.size)
    if several := sorted(set(sizes))[1:]:
        problems.add("images of different sizes, and no data.size", some(["{} x {}".format(*size) for size in several]))
    return sizes[0][::-1] if sizes else (1, 1)


def _class_maps(masks: Sequence[File], coding: Coding, frame: Size, fit: Fit, root: Path, hint: str) -> np.ndarray:
    """uint8 [N, *frame], read from the file of an earlier start, or decoded and kept."""
    facts = f"{identity(list(masks), 'masks', root)} {VERSION} {frame} {fit} {coding.facts()}"
    shape = (len(masks), *frame, 1)

    def again(row: int, _: tuple[int, ...]) -> np.ndarray:
        return fitted(decoded(masks[row], coding), frame, fit)[..., None]

    def fill(put: Callable[[int, np.ndarray], None]) -> None:
        problems = Told()
        _decode_all(masks, coding, frame, fit, problems, lambda row, classes: put(row, classes[..., None]))
        if problems.found:
            raise refused(problems, root, hint)

    found: kept.Images | None = kept.made_once(hashlib.sha256(facts.encode()).hexdigest(), shape, fill, again)
    if found is None:
        found = allocate(shape, root)
        fill(partial(np.ndarray.__setitem__, found))
    return found[:][..., 0]


def _decode_all(
    masks: Sequence[File],
    coding: Coding,
    frame: Size | None,
    fit: Fit,
    problems: Told,
    put: Callable[[int, np.ndarray], None],
) -> None:
    """Each that is there; without a ``frame`` they are only looked at."""

    def one(row: int) -> Wrong | None:
        if not is_there(masks[row].path):
            return None
        try:
            classes = decoded(masks[row], coding)
            put(row, classes if frame is None else fitted(classes, frame, fit))
        except Wrong as wrong:
            return wrong
        return None

    for mask, wrong in zip(masks, in_threads(one, range(len(masks))), strict=True):
        if wrong:
            problems.add(wrong.kind, f"{mask}{wrong.detail and f' ({wrong.detail})'}")


def decoded(file: File, coding: Coding) -> np.ndarray:
    """The class of each pixel of a mask, uint8 [H, W]. Raises Wrong."""
    try:
        with file.open() as content, opened(content) as image:
            if image.format in ("JPEG", "MPO"):
                raise Wrong("masks that are JPEGs, whose values are not exact")
            coloured = image.mode not in ("1", "L", "P")
            if coloured and not coding.colours:
                raise Wrong("masks in colour, and the labels have no colours", image.mode)
            by_colour = coloured or (image.mode == "P" and bool(coding.colours))
            pixels = np.array(image.convert("RGB") if by_colour else image)
    except Wrong:
        raise
    except Exception as error:  # Pillow's readers raise many kinds for a broken file
        raise Wrong("masks that cannot be read", " ".join(str(error).split())) from error
    return _by_colour(pixels, coding.colours) if by_colour else _by_value(pixels.astype(np.uint8), coding.values)


def _by_value(values: np.ndarray, known: Mapping[int, int]) -> np.ndarray:
    table = np.full(256, -1, np.int16)
    table[list(known)] = list(known.values())
    if unknown := [value for value in np.unique(values).tolist() if table[value] < 0]:
        raise Wrong("masks with values that are no label's", some(list(map(str, unknown))))
    return table[values].astype(np.uint8)


def _by_colour(pixels: np.ndarray, known: Mapping[Colour, int]) -> np.ndarray:
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    there, inverse = np.unique(packed, return_inverse=True)
    colours = [(number >> 16, number >> 8 & 255, number & 255) for number in there.tolist()]
    if unknown := [colour for colour in colours if colour not in known]:
        raise Wrong("masks with colours that are no label's", some(["{}, {}, {}".format(*each) for each in unknown]))
    return np.array([known[colour] for colour in colours], np.uint8)[inverse.reshape(packed.shape)]


def fitted(classes: np.ndarray, frame: Size, fit: Fit) -> np.ndarray:
    """A class map uint8 [H, W] as one of another size (fit.py), each place the nearest, as its image is placed: uint8
    [*frame]; what is around it is ignored."""
    height, width = classes.shape
    if (height, width) == frame:
        return classes
    _, resized, (top, left), _ = placed((height, width), frame, fit)
    part = np.array(Image.fromarray(classes).resize(resized[::-1], Image.Resampling.NEAREST))
    part = part[max(-top, 0) :, max(-left, 0) :][: frame[0], : frame[1]]
    made = np.full(frame, IGNORED, np.uint8)
    made[max(top, 0) :, max(left, 0) :][: part.shape[0], : part.shape[1]] = part
    return made
