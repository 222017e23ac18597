"""The images that a finished file is scored on: every one that is given, in the size and colours that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdcompress.data.from_folder import split_folders
from kdcompress.data.kept import Images
from kdcompress.data.recoloured import Recoloured
from kdcompress.data.source import check_size, load, read
from kdcompress.data.splits import Split
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

FOLDERS = ("image-folder", "webdataset")  # sources whose root may hold a folder for each split
SPLITS = ("test", "validation", "train")  # by preference

Part = tuple[tuple[str, ...], Split, list[str]]  # the classes' names, the images, notes


@dataclass(frozen=True, eq=False)
class Scored:
    """``parts`` are scored together; ``of`` says what they are: "d2/test"."""

    labels: tuple[str, ...]
    parts: tuple[Split, ...]
    of: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W, C] of an image."""
        return self.parts[0].images.shape[1:]


def load_scored(data: Data, split: str | None = None, truth: str = "") -> Scored:
    """The test images of ``data`` where it has some of its own, else its validation images, else all that there are;
    with the kind of ``truth`` that a task learns (``source.read``).

    ``split``: "test", "validation" or "train", whole where the data have it and otherwise as a run cuts it from the
    training images; or "all". Neither training images nor their statistics are needed.

    Raises UsageError as ``load`` does, for a split that cannot be had and for splits of other classes.
    """
    root = data.root.expanduser() if data.root and data.source in FOLDERS else None
    name = (root.resolve().name if root.is_dir() else str(root)) if root else data.source
    there = _folders(data, root) if root and root.is_dir() else _read(data, truth)
    wanted = split or next(each for each in SPLITS if each in there)
    if wanted != "all" and wanted not in there:
        source = load(data, truth)
        notes = (*source.notes, f"{name} has no {wanted} images of its own: these are the ones that a run sets aside")
        return Scored(source.labels, (getattr(source, wanted),), f"{name}/{wanted}", notes)
    chosen = list(there) if wanted == "all" else [wanted]
    parts = [there[each]() for each in chosen]
    labels = max((part[0] for part in parts), key=len)
    if any(part[0] != labels[: len(part[0])] for part in parts):
        raise UsageError("The splits do not have the same classes.", where=root, got=", ".join(chosen))
    notes = tuple(dict.fromkeys(note for part in parts for note in part[2]))
    whole = wanted == "all" or (split is None and wanted == "train")
    if whole and split is None:
        notes = (*notes, f"all of {name} is scored; --split test scores only what a run sets aside for its test")
    return Scored(labels, tuple(part[1] for part in parts), name if whole else f"{name}/{wanted}", notes)


def _folders(data: Data, root: Path) -> dict[str, Callable[[], Part]]:
    """The splits of a folder, each read as a folder of its own and not before it is asked for."""

    def whole(folder: Path) -> Part:
        raw = read(data.model_copy(update={"root": folder}))
        return raw.labels, raw.train, raw.notes

    return {name: partial(whole, folder) for name, folder in split_folders(root, training=False).items()}


def _read(data: Data, truth: str) -> dict[str, Callable[[], Part]]:
    raw = read(data, truth)
    check_size(data, raw.train.images.shape)
    splits = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    found: dict[str, Part] = {n: (raw.labels, each, raw.notes) for n, each in splits.items() if each is not None}
    return {name: partial(found.__getitem__, name) for name in found}


def as_taken(images: Images, channels: int) -> tuple[Images | Recoloured, str | None]:
    """The images in the colours that a file takes, and a note where they were converted; others stay as they are."""
    converted = {(1, 3): "grey images are given as RGB", (3, 1): "colour images are given as their luminance"}
    note = converted.get((images.shape[-1], channels))
    return (Recoloured(images, channels), note) if note else (images, None)
