"""WebDataset shards: .tar files of samples, KEY.jpg (or another image) beside KEY.cls (or KEY.json with a "label").

The shards are read by tarfile, which says where in a shard an image is: so that images are decoded by several threads,
in the shards' order, and a sample has the same number in each run. The package webdataset reads them as a stream.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from kdcompress.data.decode import SUFFIXES, File, identity, read_images, some
from kdcompress.data.from_folder import SPLITS, split_folders
from kdcompress.data.kept import chosen, remembered
from kdcompress.data.source import Found, Raw, Split, sources
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

Sample = tuple[str, int, int, int]  # name of the image, where in the shard it begins, its bytes, its class


class WebDataset:
    """``data.root`` is a folder of .tar files, or with those of each split in train/, val/ and test/; or a pattern like
    ``shards/{000..146}.tar`` or ``{train,val}/{00..15}.tar``. A classnames.txt beside them, or in the folder above,
    names the classes, one a line; else they are called by their numbers.

    Images as in an image folder; without shards of their own, validation and test are cut from the training images.
    """

    def find(self, data: Data) -> Found:
        if data.root is None:
            raise UsageError("The source webdataset needs data.root, the folder of the shards or a pattern.")
        shards(data.root.expanduser())
        return Found(str(data.root.expanduser()), True)

    def read(self, data: Data) -> Raw:
        root = Path(self.find(data).origin)
        splits = shards(root)
        every = [shard for split in splits.values() for shard in split]
        base = root if root.is_dir() else every[0].parent
        indices = remembered(
            identity([File(shard) for shard in every], None, base), lambda: [index(shard) for shard in every]
        )
        samples: dict[Path, list[Sample]] = dict(zip(every, indices))
        files = [File(shard, *sample[:3]) for shard in every for sample in samples[shard]]
        classes = {s: np.array([x[3] for t in splits[s] for x in samples[t]], np.int64) for s in splits}
        for split, numbers in classes.items():
            if not len(numbers):
                raise UsageError(f"The {split} shards hold no images with a class.", where=root)
        labels = class_names(1 + max(int(numbers.max()) for numbers in classes.values()), every[0].parents[:2])
        images = read_images(files, data.size, base)
        found, start = {}, 0
        for split, numbers in classes.items():
            found[split] = Split(chosen(images, slice(start, start + len(numbers))), numbers)
            start += len(numbers)
        return Raw(labels, found["train"], found.get("validation"), found.get("test"), str(root))


def shards(root: Path) -> dict[str, list[Path]]:
    """The shards of the train, validation and test split, as far as there are any."""
    if root.is_dir():
        splits = {name: sorted(folder.glob("*.tar")) for name, folder in split_folders(root).items()}
    else:
        splits = {}
        for path in map(Path, expand(str(root))):
            split = path.parent.name if path.parent.name in SPLITS else "train"
            splits.setdefault("validation" if split == "val" else split, []).append(path)
        missing = [str(path) for paths in splits.values() for path in paths if not path.is_file()]
        if missing:
            raise UsageError("There is no such shard.", where="data.root", got=some(missing))
    if empty := [name for name in ("train", *splits) if not splits.get(name)]:
        raise UsageError(f"There are no {empty[0]} shards.", where=root, allowed="files that end with .tar")
    return splits


def expand(pattern: str) -> list[str]:
    """a{00..02,x} -> a00, a01, a02, ax"""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    parts: list[str] = []
    for part in braces[1].split(","):
        first, dots, last = part.partition("..")
        ends = dots and first.isdigit() and last.isdigit()
        parts += [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)] if ends else [part]
    return [path for part in parts for path in expand(pattern[: braces.start()] + part + pattern[braces.end() :])]


def index(shard: Path) -> list[Sample]:
    """The samples of a shard that have an image, in its order."""
    found: list[Sample] = []
    try:
        with tarfile.open(shard, "r:") as tar:
            for key, members in groupby(filter(tarfile.TarInfo.isfile, tar), lambda member: key_of(member)[0]):
                parts, where = {key_of(member)[1]: member for member in members}, f"{shard}: {key}"
                image = next((member for kind, member in parts.items() if f".{kind}" in SUFFIXES), None)
                if image is not None:
                    found.append((image.name, image.offset_data, image.size, class_of(tar, parts, where)))
                elif "cls" in parts:
                    raise UsageError("A sample has no image.", where=where, got=", ".join(parts))
    except (OSError, tarfile.TarError) as error:
        raise UsageError("A shard cannot be read.", where=shard, got=str(error)) from error
    return found


def key_of(member: tarfile.TarInfo) -> tuple[str, str]:
    """a/b.c.JPG -> a/b, c.jpg"""
    path = PurePosixPath(member.name)
    stem, _, kind = path.name.partition(".")
    return str(path.with_name(stem or path.name)), kind.lower()


def class_of(tar: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], where: str) -> int:
    for kind in ("cls", "json"):
        content = tar.extractfile(parts[kind]) if kind in parts else None
        if content is not None:
            text = content.read()
            try:
                number = int(json.loads(text)["label"] if kind == "json" else text)
            except (ValueError, TypeError, KeyError):
                number = -1
            if number < 0:
                raise UsageError("A sample's class is not a number.", where=f"{where}.{kind}", got=repr(text[:40]))
            return number
    raise UsageError("A sample has no class.", where=where, got=", ".join(parts), allowed="KEY.cls, KEY.json")


def class_names(count: int, places: Sequence[Path]) -> tuple[str, ...]:
    for path in (place / "classnames.txt" for place in places):
        if path.is_file():
            names = tuple(path.read_text().splitlines())
            if len(names) < count or len(set(names)) < len(names):
                raise UsageError("These are not the classes' names.", where=path, got=len(names), allowed=f"{count}")
            return names
    return tuple(map(str, range(count)))


sources.register("webdataset")(WebDataset())
