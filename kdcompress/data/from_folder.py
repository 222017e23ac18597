"""A folder of images, one folder a class: root/CLASS/* or root/{train,val,test}/CLASS/*."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcompress.data.decode import read_listed
from kdcompress.data.image import SUFFIXES
from kdcompress.data.listing import Passed, entries, files_below
from kdcompress.data.source import SHOWN, root_of, sources
from kdcompress.data.splits import Found, Listed, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

SPLITS = {  # names of folders, in any case
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


class ImageFolder:
    """Images are RGB, or one channel where all are grey; alpha is dropped. They are turned as their EXIF says. Where
    ``data.size`` is given the shorter side is resized to it (bilinear) and the middle is cut out. Decoded once, and
    kept.

    The splits' folders are train or training; val, valid or validation; test or testing; in any case. Without folders
    of their own, validation and test are cut from the training images. A class has images in its own folder, and may
    have more in folders in it. Links are followed. Hidden files and folders and those of systems are passed over.
    """

    resizes = True

    def find(self, data: Data) -> Found:
        root = root_of(data, "the folder of the images")
        if not root.is_dir():
            raise UsageError("data.root is not a folder.", where=root)
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        return read_listed(self.listed(data), data.size, data.fit)

    def listed(self, data: Data) -> Listed:
        """Raises UsageError for folders that are not as they should be."""
        root = Path(self.find(data).origin)
        passed = Passed()
        folders = split_folders(root, passed=passed)
        classes_of = {split: class_files(folder, passed) for split, folder in folders.items()}
        labels = tuple(classes_of["train"])
        if len(labels) < 2:
            raise too_few(folders["train"], labels)
        files, truth = {}, {}
        fewest = {"train": 4 - len(folders)}  # one image for each split that is cut from them
        for split, classes in classes_of.items():
            check_classes(folders[split], classes, labels, fewest.get(split, 1))
            files[split] = [path for paths in classes.values() for path in paths]
            truth[split] = np.repeat(np.arange(len(labels), dtype=np.int64), [len(paths) for paths in classes.values()])
        return Listed(labels, files, truth, str(root), passed.notes(root))


def split_folders(root: Path, training: bool = True, passed: Passed | None = None) -> dict[str, Path]:
    """{"train": root/train, "validation": ..., "test": ...}, as far as they are there; else {"train": root}. With
    ``training``, "train" has to be among them.

    One folder of images that is called like a split, beside others, is a class: "train" may be a vehicle.
    """
    own = Passed()
    folders, _ = entries(root, own)
    named: dict[str, list[Path]] = {}
    for folder in folders:
        if split := SPLITS.get(folder.name.casefold()):
            named.setdefault(split, []).append(folder)
    there = [folder for found in named.values() for folder in found]
    others = [folder.name for folder in folders if folder not in there]
    if not there or (others and len(there) == 1 and holds_images(there[0])):
        return {"train": root}
    if passed is not None:
        passed.merge(own)
    for split, found in named.items():
        if len(found) > 1:
            raise UsageError(
                f"There are two folders of {'training' if split == 'train' else split} images.",
                where=root,
                got=", ".join(folder.name for folder in found),
                hint="join them, or move one somewhere else",
            )
    if training and "train" not in named:
        raise UsageError(
            "The folder has no training images.",
            where=root,
            got=", ".join(folder.name for folder in there),
            allowed="train, val (or validation) and test, or one folder a class",
        )
    if others:
        raise UsageError(
            "Folders of classes stand beside the train folder.",
            where=root,
            got=some(others),
            hint="move them, or the folder of the splits, somewhere else",
        )
    return {split: named[split][0] for split in ("train", "validation", "test") if split in named}


def holds_images(folder: Path) -> bool:
    folders, files = entries(folder, Passed())
    return not folders and any(file.suffix.lower() in SUFFIXES for file in files)


def class_files(folder: Path, passed: Passed) -> dict[str, list[Path]]:
    """Class name, in its Unicode form NFC, -> its images at any depth, both sorted by name; what else is there is added
    to ``passed``.

    Raises UsageError for names that are no text or the same twice, and for classes whose images are all in folders.
    """
    folders, files = entries(folder, passed)
    for file in files:
        passed.add("files outside the class folders", file)
    named: dict[str, Path] = {}
    for path in folders:
        name = class_name(path)
        if name in named:
            raise UsageError("Two class folders have the same name in two Unicode forms.", where=folder, got=name)
        named[name] = path
    classes: dict[str, list[Path]] = {}
    for name in sorted(named):
        classes[name] = []
        for file in files_below(named[name], passed):
            if file.suffix.lower() in SUFFIXES:
                classes[name].append(file)
            else:
                passed.add("files that are not images", file)
    nested = {
        name: sorted({file.relative_to(named[name]).parts[0] for file in images})
        for name, images in classes.items()
        if images and all(file.parent != named[name] for file in images)
    }
    if nested:
        first = next(iter(nested))
        raise UsageError(
            "Class folders hold folders, no images.",
            where=folder,
            got="".join(f"\n    - {name} holds {some(inner)}" for name, inner in list(nested.items())[:SHOWN]),
            allowed="CLASS/image.jpg, or train/, val/ and test/ that hold such folders",
            hint=f"give the folder that holds the classes as data.root ({named[first]}?), call folders of splits train,"
            " val and test, or move the images into the classes' own folders",
        )
    return classes


def class_name(folder: Path) -> str:
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise UsageError("A class folder's name is not UTF-8.", where=folder.parent, got=repr(folder.name)) from error
    return unicodedata.normalize("NFC", folder.name)


def too_few(folder: Path, labels: Sequence[str]) -> UsageError:
    """The error for a folder with fewer than two classes: what it holds, and what to do."""
    what, got = "A classifier needs at least 2 classes, one folder each.", f"{len(labels)}: {', '.join(labels)}"
    hint = "give each other class a folder of images beside it"
    if labels:
        return UsageError(what, where=folder, got=got, hint=hint)
    _, files = entries(folder, Passed())
    names = [file.name for file in files if file.suffix.lower() in SUFFIXES]
    got = "an empty folder" if not files else f"no folder, but {some([file.name for file in files], 3)}"
    hint = "put the images of each class into a folder of its own: cat/1.jpg, dog/2.jpg"
    if names:
        got = f"no folder, but {len(names):,} image{'s' * (len(names) > 1)} such as {names[0]}"
        hint += "; or, if they are one class, give the folder that holds the folders of all classes"
    return UsageError(what, where=folder, got=got, hint=hint)


def check_classes(folder: Path, classes: dict[str, list[Path]], labels: tuple[str, ...], fewest: int = 1) -> None:
    """Raises UsageError for other classes than ``labels``, and where one has no image: with all that have less than the
    ``fewest`` that are needed."""
    missing = [name for name in labels if name not in classes]
    unknown = [name for name in classes if name not in labels]
    if missing or unknown:
        got = [f"no {some(missing)}"] * bool(missing) + [f"also {some(unknown)}"] * bool(unknown)
        raise UsageError("A split's classes are not those of the training images.", where=folder, got="; ".join(got))
    if not all(classes.values()):
        raise UsageError(
            "A class has no image.",
            where=folder,
            got=some([f"{name} ({len(files)})" for name, files in classes.items() if len(files) < fewest], 20),
            allowed=f"{fewest} or more images in each, files that end with {' '.join(sorted(SUFFIXES))}",
            hint="add images to these classes, or move their folders somewhere else",
        )


sources.register("image-folder")(ImageFolder())
