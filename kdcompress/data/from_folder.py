"""A folder of images, one folder a class: root/CLASS/* or root/{train,val,test}/CLASS/*."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kdcompress.data.source import Found, Raw, Split, one_line, sources
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 are turned by a quarter
SHOWN = 5  # names in an error


class ImageFolder:
    """Images are RGB, or one channel where all are grey; alpha is dropped. JPEG photographs are turned
    as their EXIF says. Where ``data.size`` is given the shorter side is resized to it (bilinear) and the
    middle is cut out.

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
        images = read_images(paths, data.size, root)
        splits, start = {}, 0
        for split, classes in files.items():
            counts = [len(paths) for paths in classes.values()]
            stop = start + sum(counts)
            splits[split] = Split(images[start:stop], np.repeat(np.arange(len(labels), dtype=np.int64), counts))
            start = stop
        notes = [f"{len(ignored)} files that are not images were ignored, {ignored[0]} first"] if ignored else []
        return Raw(labels, splits["train"], splits.get("validation"), splits.get("test"), str(root), notes=notes)


def split_folders(root: Path) -> dict[str, Path]:
    """{"train": root/train, "validation": ..., "test": ...}, as far as they are there; else {"train": root}."""
    there = {name: root / name for name in ("train", "val", "validation", "test") if (root / name).is_dir()}
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


def read_images(paths: list[Path], size: int | None, root: Path) -> np.ndarray:
    """uint8 [N, H, W, C] of the files; C is 1 where all are grey, else 3.

    Raises UsageError that names every file that cannot be decoded, for sizes that differ while ``size``
    is None, and for more pixels than the machine's memory can hold.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        headers = list(pool.map(read_header, paths))
        broken = {path: header for path, header in zip(paths, headers, strict=True) if isinstance(header, str)}
        good = [header for header in headers if not isinstance(header, str)]
        sizes = Counter((width, height) for width, height, _ in good)
        if size is None and len(sizes) > 1:
            found = [f"{width} x {height} ({count})" for (width, height), count in sizes.most_common()]
            raise UsageError(
                "The images differ in size.",
                where=root,
                got=some(found),
                hint="set data.size to the side in pixels that they are to be resized to",
            )
        if not good:
            raise broken_files(broken, root)
        width, height = (size, size) if size else next(iter(sizes))
        channels = 1 if all(grey for *_, grey in good) else 3
        images = allocate((len(paths), height, width, channels), root)

        def decode(number: int) -> str | None:
            if paths[number] in broken:
                return broken[paths[number]]
            return decode_into(images[number], paths[number])

        reasons = pool.map(decode, range(len(paths)))
        broken = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
    if broken:
        raise broken_files(broken, root)
    return images


def read_header(path: Path) -> tuple[int, int, bool] | str:
    """Width, height and whether it is grey; or why the file cannot be used."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                return f"mode {image.mode}, where 8 bits a channel are needed"
            width, height = image.size
            if image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) >= 5:
                width, height = height, width
            return width, height, image.mode in ("1", "L", "LA")
    except Exception as error:  # Pillow's readers raise many kinds for a broken file
        return one_line(error)


def decode_into(out: np.ndarray, path: Path) -> str | None:
    """Fills ``out``, uint8 [H, W, C], with a file's pixels; returns why it cannot, or None."""
    height, width, channels = out.shape
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image) if image.format == "JPEG" else image
            pixels = turned.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # as above
        return one_line(error)
    if pixels.size != (width, height):
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BILINEAR)
    out[:] = np.asarray(pixels).reshape(out.shape)
    return None


def allocate(shape: tuple[int, ...], root: Path) -> np.ndarray:
    need = int(np.prod(shape, dtype=np.int64))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    if memory and need > 0.8 * memory:
        raise UsageError(
            "The images do not fit into this machine's memory.",
            where=root,
            got=f"{need / 2**30:.1f} GiB, {' x '.join(map(str, shape))}",
            allowed=f"{0.8 * memory / 2**30:.1f} GiB",
            hint="set data.size to a smaller side",
        )
    return np.empty(shape, np.uint8)


def broken_files(broken: dict[Path, str], root: Path) -> UsageError:
    count = "1 image" if len(broken) == 1 else f"{len(broken)} images"
    lines = [f"\n    - {path}: {reason}" for path, reason in broken.items()]
    more = [f"\n    - and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return UsageError(
        f"{count} cannot be read.", where=root, got="".join(lines[:SHOWN] + more), hint="repair or remove them"
    )


def some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


sources.register("image-folder")(ImageFolder())
