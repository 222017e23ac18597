"""A folder of images and one of masks:

    root/images/a.jpg, root/masks/a.png                          or with folders of splits, train, val and test,
    root/images/train/a.jpg, root/masks/train/a.png              inside images and masks,
    root/train/images/a.jpg, root/train/masks/a.png              or around them

and root/classes.txt, a label a line, for the values 0, 1, 2, ... of the masks; or root/labels.json (``labels_of``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcompress.class_maps import IGNORED
from kdcompress.data.annotated import Told
from kdcompress.data.from_folder import SPLITS
from kdcompress.data.image import SUFFIXES
from kdcompress.data.listing import Passed, entries, files_below
from kdcompress.data.masks import Coding, Colour, Masked, read_masked
from kdcompress.data.source import root_of, sources
from kdcompress.data.splits import Found, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data
from kdcompress.untrusted import read_json

IMAGES, MASKS = "images", "masks"
LINES, TABLE = "classes.txt", "labels.json"
HINT = f"mend the masks, or say what their values mean in {LINES} or {TABLE}"
FORM = '["sky", "road"], or {"labels": [{"name": "sky", "value": 1, "color": [0, 0, 255]}], "ignore": 255}'


class MaskFolder:
    """An image's mask has its name, with another suffix. Without folders of their own, validation and test are cut from
    the training images. The value ``data.ignore`` of a mask is no class."""

    resizes = True

    def find(self, data: Data) -> Found:
        root = root_of(data, f"the folder of {IMAGES} and {MASKS}")
        if not folders_of(root):
            got = "no such folder" if not root.is_dir() else f"no {IMAGES} and {MASKS} in it"
            hint = f"{IMAGES}/a.jpg and {MASKS}/a.png, or train/{IMAGES}/a.jpg and train/{MASKS}/a.png"
            raise UsageError("data.root is no folder of images and masks.", where=root, got=got, hint=hint)
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        root = Path(self.find(data).origin)
        labels, coding = labels_of(root, data.ignore)
        problems, notes, splits = Told(), Told(), {}
        for split, (images, masks) in folders_of(root).items():
            splits[split] = pairs(images, masks, problems, notes)
        if not splits.get("train"):
            raise UsageError("There are no training images.", where=root, got=", ".join(splits) or "none")
        return read_masked(Masked(labels, coding, splits, problems, notes), data, root, HINT)


def folders_of(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and masks of each split; those of "train" alone where there are no splits."""
    if (root / IMAGES).is_dir() and (root / MASKS).is_dir():
        named = {split: (folder, root / MASKS / folder.name) for split, folder in _splits(root / IMAGES).items()}
        return named or {"train": (root / IMAGES, root / MASKS)}
    if not root.is_dir():
        return {}
    there = {split: (folder / IMAGES, folder / MASKS) for split, folder in _splits(root).items()}
    return {split: both for split, both in there.items() if all(each.is_dir() for each in both)}


def _splits(folder: Path) -> dict[str, Path]:
    return {
        SPLITS[each.name.casefold()]: each for each in entries(folder, Passed())[0] if each.name.casefold() in SPLITS
    }


def pairs(images: Path, masks: Path, problems: Told, notes: Told) -> list[tuple[Path, Path]]:
    """Each image with its mask; with the path of a PNG where there is none."""
    found, used = [], set[str]()
    known = _by_name(masks, problems) if masks.is_dir() else {}
    for name, image in _by_name(images, problems).items():
        found.append((image, known.get(name, masks / f"{name}.png")))
        used.add(name)
    for name in sorted(known.keys() - used):
        notes.add("masks without an image, left out", known[name])
    return found


def _by_name(folder: Path, problems: Told) -> dict[str, Path]:
    """The images in a folder, at any depth, by their paths in it without a suffix."""
    found: dict[str, Path] = {}
    for path in files_below(folder, Passed()):
        if path.suffix.lower() in SUFFIXES:
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                problems.add("files of one name", f"{found[name]} and {path.name}")
            found[name] = path
    return found


def labels_of(root: Path, ignored: int) -> tuple[tuple[str, ...], Coding]:
    """The labels, and what the masks' pixels mean. A label of ``labels.json`` is a name, or has a ``name``, and may
    have a ``value`` (else its place in the list) and a ``color``, red, green and blue. ``ignore`` there is a value, a
    color or a list of these that are no class, beside ``data.ignore``. Raises UsageError for mistakes in them."""
    if (root / TABLE).is_file():
        return _of_table(root / TABLE, ignored)
    if not (root / LINES).is_file():
        raise UsageError("There are no labels of the masks.", where=root, allowed=f"{LINES} or {TABLE}", hint=FORM)
    try:
        lines = (root / LINES).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "The labels cannot be read.", where=root / LINES, got=error, hint="save it as UTF-8"
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return _checked([{"name": line} for line in lines], [ignored], root / LINES)


def _of_table(path: Path, ignored: int) -> tuple[tuple[str, ...], Coding]:
    table = read_json(path, "The labels cannot be read.", FORM)
    given = table.get("labels") if isinstance(table, dict) else table
    more = table.get("ignore", []) if isinstance(table, dict) else []
    if not isinstance(given, list):
        raise UsageError("The labels are no list.", where=path, allowed=FORM)
    single = not isinstance(more, list) or _is_colour(more)
    rows = [{"name": each} if isinstance(each, str) else each for each in given]
    return _checked(rows, [ignored, *([more] if single else more)], path)


def _checked(rows: list[Any], ignored: list[Any], path: Path) -> tuple[tuple[str, ...], Coding]:
    wrong, names = [], list[str]()
    values: dict[int, int] = {}
    colours: dict[Colour, int] = {}
    for each in ignored:
        if _is_colour(each):
            colours[tuple(each)] = IGNORED
        elif _is_value(each):
            values[each] = IGNORED
        else:
            wrong.append(f"ignore {each!r} is no value from 0 to 255 and no color")
    coloured = [row for row in rows if isinstance(row, Mapping) and _colour(row) is not None]
    for number, row in enumerate(rows):
        name = unicodedata.normalize("NFC", str(row.get("name") or "").strip()) if isinstance(row, Mapping) else ""
        names.append(name)
        if not name:
            wrong.append(f"label {number + 1} has no name")
            continue
        value, colour = row.get("value", number), _colour(row)
        if not _is_value(value) or value in values:
            ignores = _is_value(value) and values[value] == IGNORED
            same = "the value that is ignored" if ignores else "another label's value"
            wrong.append(f"{name}: value {value!r} is {same if _is_value(value) else 'none from 0 to 255'}")
        else:
            values[value] = number
        if coloured and not _is_colour(colour):
            wrong.append(f"{name}: color {colour!r} is no [red, green, blue] from 0 to 255")
        elif coloured and tuple(colour) in colours:
            wrong.append(f"{name}: color {colour!r} is there twice")
        elif coloured:
            colours[tuple(colour)] = number
    wrong += [f"{name} is there twice" for name in sorted({name for name in names if name and names.count(name) > 1})]
    if wrong or len(names) < 2:
        got = some(wrong) if wrong else f"{len(names)} labels"
        raise UsageError("The labels of the masks have mistakes.", where=path, got=got, allowed=f"2 or more: {FORM}")
    return tuple(names), Coding(values, colours if coloured else {})


def _colour(row: Mapping[str, Any]) -> Any:
    return row.get("color", row.get("colour"))


def _is_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_value, value))


sources.register("mask-folder")(MaskFolder())
