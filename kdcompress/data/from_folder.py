"""A folder of images, one folder a class: root/CLASS/* or root/{train,val,test}/CLASS/*."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdcompress.data.decode import SUFFIXES, File, read_images, some
from kdcompress.data.kept import chosen
from kdcompress.data.source import Found, Raw, Split, sources
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

SPLITS = ("train", "val", "validation", "test")  # names of folders


class ImageFolder:
    """Images are RGB, or one channel where all are grey; alpha is dropped. JPEG photographs are turned
    as their EXIF says. Where ``data.size`` is given the shorter side is resized to it (bilinear) and the
    middle is cut out. Decoded once, and kept.

    Without folders of their own, validation and test are cut from the training images.
    """

    def find(self, data: Data) -> Found:
        if data.root is None:
            raise UsageError("The source image-folder needs data.root, the folder of the images.")
        root = data.root.expanduser()
        if not root.is_dir():
            raise UsageError("data.root is not a folder.", where=root)
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        root = Path(self.find(data).origin)
        folders = split_folders(root)
        ignored: list[Path] = []
        files = {split: class_files(folder, ignored) for split, folder in folders.items()}
        labels = tuple(files["train"])
        if len(labels) < 2:
            raise UsageError(
                "A classifier needs at least 2 classes, one folder each.",
                where=folders["train"],
                got=f"{len(labels)}: {', '.join(labels)}" if labels else "no folder",
            )
        for split, classes in files.items():
            check_classes(folders[split], classes, labels)
        paths = [path for classes in files.values() for paths in classes.values() for path in paths]
        images = read_images([File(path) for path in paths], data.size, root)
        splits, start = {}, 0
        for split, classes in files.items():
            counts = [len(paths) for paths in classes.values()]
            stop = start + sum(counts)
            classes_of = np.repeat(np.arange(len(labels), dtype=np.int64), counts)
            splits[split] = Split(chosen(images, slice(start, stop)), classes_of)
            start = stop
        notes = [f"{len(ignored)} files that are not images were ignored, {ignored[0]} first"] if ignored else []
        return Raw(labels, splits["train"], splits.get("validation"), splits.get("test"), str(root), notes=notes)


def split_folders(root: Path) -> dict[str, Path]:
    """{"train": root/train, "validation": ..., "test": ...}, as far as they are there; else {"train": root}."""
    there = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if not there:
        return {"train": root}
    if "train" not in there:
        raise UsageError(
            "The folder has no training images.",
            where=root,
            got=", ".join(there),
            allowed="train, val (or validation) and test, or one folder a class",
        )
    if "val" in there and "validation" in there:
        raise UsageError("There are two folders of validation images.", where=root, got="val, validation")
    extra = sorted(f.name for f in root.iterdir() if f.is_dir() and f.name not in there and f.name[0] != ".")
    if extra:
        raise UsageError(
            "Folders of classes stand beside the train folder.",
            where=root,
            got=some(extra),
            hint="move them, or the folder of the splits, somewhere else",
        )
    if "val" in there:
        there["validation"] = there.pop("val")
    return there


def class_files(folder: Path, ignored: list[Path]) -> dict[str, list[Path]]:
    """Class name -> its images at any depth, both sorted by name; other files are added to ``ignored``."""
    classes: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir() and not path.name.startswith("."):
            files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.as_posix())
            classes[path.name] = [file for file in files if file.suffix.lower() in SUFFIXES]
            ignored += [file for file in files if file.suffix.lower() not in SUFFIXES]
        elif path.is_file():
            ignored.append(path)
    return classes


def check_classes(folder: Path, classes: dict[str, list[Path]], labels: tuple[str, ...]) -> None:
    missing = [name for name in labels if name not in classes]
    unknown = [name for name in classes if name not in labels]
    if missing or unknown:
        got = [f"no {some(missing)}"] * bool(missing) + [f"also {some(unknown)}"] * bool(unknown)
        raise UsageError("A split's classes are not those of the training images.", where=folder, got="; ".join(got))
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise UsageError(
            "A class has no image.",
            where=folder,
            got=some(empty),
            allowed=f"files that end with {' '.join(sorted(SUFFIXES))}",
        )


sources.register("image-folder")(ImageFolder())
