"""WebDataset shards: .tar files of samples, KEY.jpg (or another image) beside KEY.cls (or KEY.json with a "label").

The shards are read by tarfile, which says where in a shard an image is: so that images are decoded by several threads,
in the shards' order, and a sample has the same number in each run. The package webdataset reads them as a stream.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from kdcompress.data.decode import File, identity, read_images
from kdcompress.data.from_folder import SPLITS, split_folders
from kdcompress.data.kept import chosen, remembered
from kdcompress.data.listing import Passed, entries, foreign
from kdcompress.data.shard import Sample, index
from kdcompress.data.source import one_line, root_of, short, sources
from kdcompress.data.splits import Found, Raw, Split
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

MOST_SHARDS = 100_000
MOST_BRACES = 16  # in a pattern
MOST_UNSEEN = 100_000  # classes; there may be as many as images


class WebDataset:
    """``data.root`` is a folder of .tar files, or with those of each split in train/, val/ and test/; or a pattern like
    ``shards/{000..146}.tar`` or ``{train,val}/{00..15}.tar``. A classnames.txt beside them, or in the folder above,
    names the classes, one a line; else they are called by their numbers.

    Images as in an image folder; without shards of their own, validation and test are cut from the training images.
    """

    resizes = True

    def find(self, data: Data) -> Found:
        root = root_of(data, "the folder of the shards or a pattern")
        shards(root)
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        root = Path(self.find(data).origin)
        splits = shards(root)
        every = [shard for split in splits.values() for shard in split]
        base = root if root.is_dir() else every[0].parent
        known = f"{identity([File(shard) for shard in every], None, base)}-2"
        indices = remembered(known, lambda: [index(shard) for shard in every])
        samples: dict[Path, list[Sample]] = dict(zip(every, indices))
        files = [File(shard, *sample[:3]) for shard in every for sample in samples[shard]]
        classes = {s: np.array([x[3] for t in splits[s] for x in samples[t]], np.int64) for s in splits}
        for split, numbers in classes.items():
            if not len(numbers):
                raise UsageError(f"The {split} shards hold no images with a class.", where=root)
        count = 1 + max(int(numbers.max()) for numbers in classes.values())
        labels = class_names(count, len(files), every[0].parents[:2])
        images = read_images(files, data.size, base, data.fit or "crop")
        found, start = {}, 0
        for split, numbers in classes.items():
            found[split] = Split(chosen(images, slice(start, start + len(numbers))), numbers)
            start += len(numbers)
        return Raw(labels, found["train"], found.get("validation"), found.get("test"), str(root), files=files)


def shards(root: Path) -> dict[str, list[Path]]:
    """The shards of the train, validation and test split, as far as there are any: by their folders' names, or by words
    of their own (``cats-val-003.tar``) where those name several splits."""
    if root.is_dir():
        found = {split: tar_files(folder) for split, folder in split_folders(root).items()}
    else:
        found = {}
        for path in map(Path, expand(str(root))):
            found.setdefault(SPLITS.get(path.parent.name.casefold(), "train"), []).append(path)
        special = [path for paths in found.values() for path in paths if not path.is_file()]
        if special:
            what = "A shard is not a file." if special[0].exists() else "There is no such shard."
            raise UsageError(what, where="data.root", got=some([str(path) for path in special]))
    if list(found) == ["train"]:
        found = by_own_names(found["train"], root)
    if empty := [name for name in ("train", *found) if not found.get(name)]:
        raise UsageError(f"There are no {empty[0]} shards.", where=root, allowed="files that end with .tar")
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def tar_files(folder: Path) -> list[Path]:
    passed = Passed()
    _, files = entries(folder, passed)
    packed = [file.name for file in files if re.search(r"\.(tgz|tar\.\w+)$", file.name.lower())]
    if packed:
        hint = "unpack them, for example with gunzip: images are read from the middle of a shard"
        raise UsageError("Compressed shards cannot be read.", where=folder, got=some(packed), hint=hint)
    if lost := [str(path) for path in passed.first.values() if path.suffix == ".tar" and not foreign(path.name)]:
        raise UsageError("A shard is not a file.", where=folder, got=some(lost))
    return [file for file in files if file.suffix == ".tar"]


def by_own_names(paths: list[Path], root: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        words = {SPLITS[word] for word in re.split("[^a-z]+", path.name.lower()) if word in SPLITS}
        found.setdefault(words.pop() if len(words) == 1 else "", []).append(path)
    if len(found) <= 1:
        return {"train": paths}
    if "" in found:
        raise UsageError(
            "Some shards' names tell their split, and others do not.",
            where=root,
            got=", ".join(f"{paths[0].name} ({split or 'no split'})" for split, paths in found.items()),
            hint="put those of each split into a folder: train, val, test",
        )
    return found


def expand(pattern: str) -> list[str]:
    """a{00..02,x} -> a00, a01, a02, ax. Raises UsageError for more than ``MOST_SHARDS`` names."""
    if pattern.count("{") > MOST_BRACES or len(found := list(islice(expanded(pattern), MOST_SHARDS + 1))) > MOST_SHARDS:
        raise UsageError(
            "The pattern stands for too many shards.",
            where="data.root",
            got=short(pattern),
            allowed=f"{MOST_SHARDS:,} names",
        )
    return found


def expanded(pattern: str) -> Iterator[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        yield pattern
        return
    for part in braces[1].split(","):
        ends = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", part)
        for text in (f"{n:0{len(ends[1])}}" for n in range(int(ends[1]), int(ends[2]) + 1)) if ends else [part]:
            yield from expanded(pattern[: braces.start()] + text + pattern[braces.end() :])


def class_names(count: int, images: int, places: Sequence[Path]) -> tuple[str, ...]:
    for path in (place / "classnames.txt" for place in places):
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
            except UnicodeDecodeError as error:
                raise UsageError("The classes' names are not UTF-8.", where=path, got=one_line(error)) from error
            names = tuple(unicodedata.normalize("NFC", line.removesuffix("\r")) for line in lines)
            if len(names) < count or len(set(names)) < len(names):
                got = f"{len(names)} names, {len(set(names))} of them different"
                raise UsageError(
                    "The list of class names does not fit.", where=path, got=got, allowed=f"{count} or more"
                )
            return names
    if count > (most := max(images, MOST_UNSEEN)):
        raise UsageError(
            "A class's number is too high.", where=places[0], got=f"{count - 1:,}", allowed=f"0 to {most - 1:,}"
        )
    return tuple(map(str, range(count)))


sources.register("webdataset")(WebDataset())
