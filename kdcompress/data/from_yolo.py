"""YOLO: a data.yaml that names classes and folders of images, and for each image a text file, a line an object."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.data.annotated import Annotations, Marked, is_there, parsed_once, read_annotated
from kdcompress.data.from_folder import SPLITS
from kdcompress.data.image import SUFFIXES
from kdcompress.data.listing import Passed, entries, files_below
from kdcompress.data.objects import OBJECT
from kdcompress.data.source import root_of, sources
from kdcompress.data.splits import Found, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data
from kdcompress.strict_yaml import read as read_yaml

TABLE = "data.yaml"
HINT = "a line is CLASS X Y WIDTH HEIGHT: the class's number, then the box's middle and size in shares of the image's"


class Yolo:
    """The splits are those that data.yaml names, ``path`` before them where it has one; without one of their own,
    validation and test are cut from the training images. The labels of ``images/a/1.jpg`` are ``labels/a/1.txt``; an
    image without them has no object. A line with a polygon, x y x y x y ..., is the box around it.
    """

    resizes = True

    def laid_out(self, root: Path) -> bool:
        return (root / TABLE).is_file()

    def find(self, data: Data) -> Found:
        root = root_of(data, f"the folder of {TABLE}, or a file like it")
        return Found(str(root), True) if root.is_file() else Found(str(table_of(root).parent), True)

    def read(self, data: Data) -> Raw:
        root = root_of(data, f"the folder of {TABLE}, or a file like it")
        table = root if root.is_file() else table_of(root)
        labels, images, passed = read_table(table)
        files = [label for its in images.values() for path in its if is_there(label := label_file(path))]
        if not files:
            paths = [str(label_file(path)) for its in images.values() for path in its]
            raise UsageError("No image has a file of labels.", where=table, got=f"no {some(paths, 2)}", hint=HINT)
        found = parsed_once([table, *files], table.parent, images, lambda: parsed(labels, images))
        raw = read_annotated(found, data, table.parent, HINT)
        raw.notes += passed.notes(table.parent)
        return raw


def table_of(root: Path) -> Path:
    """The YAML file in a folder. Raises UsageError where it is not clear which."""
    if (root / TABLE).is_file():
        return root / TABLE
    if not root.is_dir():
        raise UsageError("data.root is no folder.", where=root)
    found = [file for file in entries(root, Passed())[1] if file.suffix.lower() in (".yaml", ".yml")]
    if len(found) != 1:
        got = some([file.name for file in found]) or "no YAML file"
        raise UsageError(f"There is no {TABLE} in data.root.", where=root, got=got, allowed="names, train, val, test")
    return found[0]


def read_table(table: Path) -> tuple[list[str], dict[str, list[Path]], Passed]:
    """The classes' names, the images of each split, and what was passed over. Raises UsageError."""
    content, passed = read_yaml(table, "description of the data"), Passed()
    labels = class_names(content, table)
    images: dict[str, list[Path]] = {}
    for key, split in SPLITS.items():
        if content.get(key):
            images.setdefault(split, []).extend(image_files(content, key, table, passed))
    if not images.get("train"):
        got = ", ".join(map(str, content))
        raise UsageError("The data have no training images.", where=table, got=got, allowed="train: images/train")
    again = [str(path) for its in images.values() for path, known in _counted(its).items() if known > 1]
    if again:
        raise UsageError("Images come twice in a split.", where=table, got=some(again))
    return labels, {split: images[split] for split in ("train", "validation", "test") if images.get(split)}, passed


def class_names(content: Mapping[str, Any], table: Path) -> list[str]:
    """A list, or a mapping of the numbers from 0 on."""
    names = content.get("names")
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
        names = [names[number] if number in names else names[str(number)] for number in range(len(names))]
    words = isinstance(names, list) and all(type(name) in (str, int) and name != "" for name in names)
    if not names or not words:
        got = repr(names)[:200]
        raise UsageError(
            "names are not the classes' names.", where=table, got=got, allowed='["cat", "dog"], or {0: "cat"}'
        )
    found = [unicodedata.normalize("NFC", str(name)) for name in names]
    count = content.get("nc", len(found))
    if count != len(found) or len(set(found)) < len(found):
        raise UsageError("names are not nc different names.", where=table, got=some(found), allowed=f"nc: {count}")
    return found


def image_files(content: Mapping[str, Any], key: str, table: Path, passed: Passed) -> list[Path]:
    """Those of a split: in a folder, at any depth, or listed in a text file; or in several."""
    named = content[key] if isinstance(content[key], list) else [content[key]]
    base = table.parent / str(content.get("path") or ".")
    found: list[Path] = []
    for name in map(str, named):
        places = [base / name, table.parent / name, table.parent / name.removeprefix("../")]
        place = next((place for place in places if is_there(place, Path.exists)), None)
        if place is None:
            got = some([str(path) for path in dict.fromkeys(places)])
            raise UsageError(f"The {key} images are not there.", where=table, got=f"no {got}")
        if place.is_dir():
            for file in files_below(place, passed):
                if file.suffix.lower() in SUFFIXES:
                    found.append(file)
                elif file.suffix.lower() != ".txt":
                    passed.add("files that are not images", file)
        else:
            lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
            listed = [Path(line.strip()) for line in lines if line.strip()]
            found += [path if is_there(path := place.parent / each) else base / each for each in listed]
    return found


def label_file(image: Path) -> Path:
    """images/a/1.jpg -> labels/a/1.txt, the last "images" in the path; beside the image where there is none."""
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def parsed(labels: list[str], images: Mapping[str, list[Path]]) -> Annotations:
    found = Annotations("line", labels, shares=True)
    for split, paths in images.items():
        found.splits[split] = [_marked(path, len(labels), found) for path in paths]
    return found


def _marked(image: Path, classes: int, found: Annotations) -> Marked:
    marked, file = Marked(str(image), None, [], []), label_file(image)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if is_there(file) else []
    except (OSError, UnicodeDecodeError) as error:
        found.problems.add("files of labels that cannot be read", f"{file}: {error}")
        return marked
    for number, line in enumerate(lines, 1):
        if not (words := line.split()):
            continue
        where = f"line {number} of {file}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            found.problems.add("lines that are not numbers", f"{where} ({line[:60]!r})")
            continue
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            found.problems.add("lines of another form", f"{where} ({len(values)} numbers)")
        elif not (values[0].is_integer() and 0 <= values[0] < classes):
            found.problems.add("unknown classes", f"{where} ({words[0][:20]}, of 0 to {classes - 1})")
        else:
            marked.objects.append([*_box(values[1:]), values[0], OBJECT])
            marked.ids.append(number)
    return marked


def _box(values: list[float]) -> list[float]:
    if len(values) == 4:
        x, y, width, height = values
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    points = np.array(values).reshape(-1, 2)
    ends: list[float] = [*points.min(0).tolist(), *points.max(0).tolist()]
    return ends


def _counted(paths: list[Path]) -> dict[Path, int]:
    counts: dict[Path, int] = {}
    for path in paths:
        counts[path] = counts.get(path, 0) + 1
    return counts


sources.register("yolo")(Yolo())
