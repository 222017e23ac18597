"""Images whose objects are marked with boxes by files of annotations: what those of all kinds have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.data.decode import File, identity, in_threads, read_header, read_images
from kdcompress.data.fit import Placed, frame_of, placed
from kdcompress.data.image import Header
from kdcompress.data.kept import remembered
from kdcompress.data.objects import BOX, CLASS, WIDTH, areas, packed
from kdcompress.data.outlined import Outlined, visible
from kdcompress.data.outlines import coded, size_of
from kdcompress.data.splits import SPLITS, Listed, Raw
from kdcompress.data.truth import Truth
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

VERSION = 1  # of what annotations are read as
SLACK = 2.0  # pixels by which a box may reach out of its image, and nothing is said
SHOWN, LONGEST = 3, 300  # places of a kind, and characters of each
THIN = 0.01  # pixels: what is thinner has no area
INSIDE = 0.5  # the share of a box that has to be inside


class Told:
    """What was found, by kind: how many of each, and the places of the first."""

    def __init__(self, found: dict[str, list[Any]] | None = None):
        self.found = found if found is not None else {}

    def add(self, kind: str, place: object) -> None:
        entry = self.found.setdefault(kind, [0])
        entry[0] += 1
        if len(entry) <= SHOWN:  # the first is the count
            entry.append(str(place)[:LONGEST])

    def lines(self, root: Path) -> list[str]:
        """One a kind, paths as seen from the root."""
        made = []
        for kind, (count, *first) in self.found.items():
            more = f" and {count - len(first):,} more" if count > len(first) else ""
            made.append(f"{kind} ({count:,}): {', '.join(first)}{more}".replace(f"{root}/", ""))
        return made


@dataclass
class Marked:
    """An image's file; height and width as the annotations say, where they do; its objects, [m, 6] (objects.py) in
    pixels of the file, what each is known by: a number, and its outline (outlines.py), where masks are wanted."""

    file: str
    said: tuple[int, int] | None
    objects: list[list[float]]
    ids: list[int]
    outlines: list[str] = field(default_factory=list)  # as JSON, which takes less memory than lists


@dataclass
class Annotations:
    """``word`` is what an object's number counts: "annotation". With ``shares`` boxes are in shares of their image's
    width and height. ``problems`` make the data unusable, ``notes`` do not."""

    word: str
    labels: list[str] = field(default_factory=list)
    splits: dict[str, list[Marked]] = field(default_factory=dict)
    shares: bool = False
    problems: Told = field(default_factory=Told)
    notes: Told = field(default_factory=Told)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        splits = {name: [list(vars(each).values()) for each in images] for name, images in self.splits.items()}
        told = {"problems": self.problems.found, "notes": self.notes.found}
        return {"word": self.word, "labels": self.labels, "splits": splits, "shares": self.shares, **told}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Annotations:
        splits = {
            name: [Marked(file, said and (said[0], said[1]), *rest) for file, said, *rest in images]
            for name, images in plain["splits"].items()
        }
        told = Told(plain["problems"]), Told(plain["notes"])
        return cls(plain["word"], plain["labels"], splits, plain["shares"], *told)


def parsed_once(files: Sequence[Path], root: Path, facts: object, parse: Callable[[], Annotations]) -> Annotations:
    """What ``parse`` makes of the files, and of the ``facts``, which is kept."""
    known = identity([File(path) for path in files], "annotations", root)
    name = hashlib.sha256(f"{known} {VERSION} {facts!r}".encode()).hexdigest()
    return Annotations.of(remembered(name, lambda: parse().plain()))


def read_annotated(
    found: Annotations, data: Data, root: Path, hint: str, parts: Mapping[str, File] | None = None
) -> Raw:
    """The images and their objects as ``data`` asks for them. ``parts``: by what an image is called, for those that are
    parts of files.

    A box that reaches up to ``SLACK`` pixels out of its image is clipped; of those that reach farther, and are half
    inside at least, and of boxes without an area and such that come twice, which are left out, a note is made.
    Raises UsageError with all else that is wrong, all at once, and for files that cannot be decoded. Objects with
    outlines have masks then.
    """
    problems, notes = Told(dict(found.problems.found)), Told(dict(found.notes.found))
    names = [name for name in SPLITS if found.splits.get(name)]
    images = [each for name in names for each in found.splits[name]]
    files = [(parts or {}).get(each.file) or File(Path(each.file)) for each in images]
    there = np.array([is_there(file.path) for file in files], bool)
    for k in np.flatnonzero(~there):
        problems.add("images that are not there", files[k])
    sizes = np.zeros((len(files), 2), np.int64)
    sizes[there] = _sizes([file for file, is_there in zip(files, there) if is_there], root, problems)
    for each, size in zip(images, sizes.tolist(), strict=True):
        if each.said is not None and all(size) and each.said != tuple(size):
            said, its = ("{1} x {0}".format(*pair) for pair in (each.said, size))
            problems.add(
                "images of another size, as their EXIF turns them, than the annotations say",
                f"{each.file} ({its}, said {said})",
            )
    for each, size in zip(images, sizes.tolist(), strict=True):
        for number, outline in zip(each.ids, each.outlines):
            if size_of(json.loads(outline)) not in (None, size) and all(size):
                problems.add("masks of another size than their image", f"{found.word} {number} of {each.file}")
    objects, kept = _checked(found, images, sizes, problems, notes)
    if problems.found:
        raise refused(problems, root, hint)
    places = [
        placed((height, width), frame_of(data.size or (height, width)), data.fit or "letterbox")
        for height, width in sizes.tolist()
    ]
    codes: list[bytes] = []
    if any(each.outlines for each in images):
        objects, codes = _with_masks(found, images, objects, kept, places, notes)
    if not sum(map(len, objects)):
        raise UsageError("No image has an object.", where=root, hint=hint)
    for rows, place in zip(objects, places, strict=True):
        rows[:, BOX] = place.there(rows[:, BOX])
    truth: Truth = packed(objects)
    if data.size is not None:
        height, width = frame_of(data.size)
        truth[..., BOX] = np.clip(truth[..., BOX], 0, np.array([width, height] * 2, np.float32))
    if codes:
        truth = Outlined.of(truth, codes, places[0].frame)
    ends = np.cumsum([0, *(len(found.splits[name]) for name in names)])
    listed = Listed(
        tuple(found.labels),
        {name: [Path(each.file) for each in found.splits[name]] for name in names},
        {name: truth[start:end] for name, start, end in zip(names, ends, ends[1:])},
        str(root),
        notes.lines(root),
    )
    return listed.raw(read_images(files, data.size, root, data.fit or "letterbox"))


def is_there(path: Path, kind: Callable[[Path], bool] = Path.is_file) -> bool:
    """Whether it is a file, or of another kind; a name that no file can have is none's."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def refused(problems: Told, root: Path, hint: str) -> UsageError:
    count = sum(entry[0] for entry in problems.found.values())
    what = "a problem" if count == 1 else f"{count:,} problems"
    lines = "\n".join(f"  - {line}" for line in problems.lines(root))
    return UsageError(f"The annotations have {what}:\n{lines}", where=root, hint=hint)


def _sizes(files: list[File], root: Path, problems: Told) -> np.ndarray:
    """Height and width of each image, int64 [N, 2]; zeros for one that cannot be read, which is a problem."""
    headers: list[Header | str] = []

    def found() -> list[list[int]]:
        headers[:] = in_threads(read_header, files)
        if any(isinstance(header, str) for header in headers):
            raise ValueError("what is broken is not kept")
        return [[header.height, header.width] for header in headers if isinstance(header, Header)]

    name = hashlib.sha256(identity(files, "sizes", root).encode()).hexdigest()
    try:
        return np.array(remembered(name, found), np.int64).reshape(-1, 2)
    except ValueError:
        pass
    for file, header in zip(files, headers, strict=True):
        if isinstance(header, str):
            problems.add("images that cannot be read", f"{file}: {header}")
    return np.array([(0, 0) if isinstance(header, str) else (header.height, header.width) for header in headers])


def _checked(
    found: Annotations, images: list[Marked], sizes: np.ndarray, problems: Told, notes: Told
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The objects of each image that are kept, float64 [m, 6], clipped to it; and which of them, int64 [m]."""
    counts = [len(each.objects) for each in images]
    owner = np.repeat(np.arange(len(images)), counts)
    rows = np.array([row for each in images for row in each.objects], np.float64).reshape(-1, WIDTH)
    known = sizes[owner].all(1)  # of the others nothing can be said
    ids = [number for each in images for number in each.ids]

    def told(where: np.ndarray, to: Told, kind: str) -> None:
        for k in np.flatnonzero(where & known):
            to.add(kind, f"{found.word} {ids[k]} of {images[owner[k]].file}")

    most = np.tile(sizes[owner][:, ::-1], 2).astype(np.float64)  # width, height, width, height
    if found.shares:
        rows[:, BOX] *= most
    finite = np.all(np.isfinite(rows), axis=1)
    told(~finite, problems, "boxes with numbers that are not finite")
    rows[~finite] = 0
    x1, y1, x2, y2 = rows[:, BOX].T
    turned = (x2 < x1) | (y2 < y1)
    told(turned, problems, "boxes of a negative width or height")
    thin = (np.minimum(x2 - x1, y2 - y1) < THIN) & finite & ~turned
    out = np.maximum(-rows[:, BOX].min(1), (rows[:, BOX] - most).max(1)) > SLACK
    before = areas(rows)
    rows[:, BOX] = np.clip(rows[:, BOX], 0, most)
    inside = areas(rows) >= INSIDE * before
    told(out & ~inside & ~turned & ~thin, problems, "boxes more than half out of their images")
    told(out & inside & ~thin, notes, "boxes clipped to their images")
    empty = thin | (areas(rows) <= 0)
    told(np.logical_or(thin, empty & ~out), notes, "boxes without an area, left out")
    twice = _twice(np.column_stack([owner, rows])) & ~empty
    told(twice, notes, "boxes that come twice, left out the second time")
    kept = np.flatnonzero(~(empty | twice))
    first = np.repeat(np.cumsum([0, *counts])[:-1], counts)
    where = np.searchsorted(owner[kept], np.arange(1, len(images)))
    return np.split(rows[kept], where), np.split(kept - first[kept], where)


def _with_masks(
    found: Annotations,
    images: list[Marked],
    objects: list[np.ndarray],
    kept: list[np.ndarray],
    places: list[Placed],
    notes: Told,
) -> tuple[list[np.ndarray], list[bytes]]:
    """The objects of each image whose mask has a pixel in the frame, and their masks; of the others a note is made."""
    codes = _masks([[each.outlines[k] for k in its] for each, its in zip(images, kept, strict=True)], places)
    seen = visible(codes, places[0].frame)
    parts = np.split(seen, np.cumsum([len(its) for its in kept])[:-1])
    for each, its, there in zip(images, kept, parts, strict=True):
        for k in its[~there]:
            notes.add("masks without a pixel, left out", f"{found.word} {each.ids[k]} of {each.file}")
    return [rows[there] for rows, there in zip(objects, parts, strict=True)], [codes[k] for k in np.flatnonzero(seen)]


def _masks(outlined: list[list[str]], places: list[Placed]) -> list[bytes]:
    """Of all objects, image by image: kept, or made in threads."""

    def made() -> list[str]:
        each = in_threads(lambda k: [coded(json.loads(its), places[k]) for its in outlined[k]], range(len(places)))
        return [code.decode("ascii") for image in each for code in image]

    name = hashlib.sha256(f"masks {VERSION} {places!r}".encode())
    for each in outlined:
        name.update("\n".join([*each, ""]).encode())
    return [code.encode("ascii") for code in remembered(name.hexdigest(), made)]


def _twice(rows: np.ndarray) -> np.ndarray:
    """bool [N]: whether a row of [N, K] stands before it already, the same in all columns but the last."""
    order = np.lexsort(rows[:, : 1 + CLASS + 1].T)
    same = (rows[order[1:], : 1 + CLASS + 1] == rows[order[:-1], : 1 + CLASS + 1]).all(1)
    found = np.zeros(len(rows), bool)
    found[order[1:]] = same
    return found
