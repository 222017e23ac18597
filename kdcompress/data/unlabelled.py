"""Images without labels, which a teacher alone answers for: a folder of any images, the training images that
``train_images`` leaves, or those of other domains."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import content_hash
from kdcompress.console import say_once
from kdcompress.data.decode import File, read_images
from kdcompress.data.image import SUFFIXES
from kdcompress.data.joined import Joined
from kdcompress.data.kept import Images, chosen, identified, remembered
from kdcompress.data.listing import Passed, files_below
from kdcompress.data.source import fingerprints, in_channels, read, source_hash
from kdcompress.data.splits import Source, Split, Unlabelled
from kdcompress.errors import UsageError
from kdcompress.recipe import Data
from kdcompress.recipe.training import REST, TARGETS


def load_unlabelled(data: Data, source: Source, truth: str = "") -> Unlabelled | None:
    """What ``data.unlabelled`` asks for beside the ``source`` that ``load`` gave; None where it asks for nothing. Those
    that are validation or test images as well, pixel for pixel, are left out.

    Raises UsageError for a folder without images, for broken ones, and where no image is left.
    """
    if data.unlabelled is None:
        return None
    if data.unlabelled == REST:
        train, passed = read(data, truth).train, list[str]()
        left = rest(train, source)
        images, rows = chosen(train.images, left), left if train.rows is None else train.rows[left]
        origin = "training images that data.train_images leaves"
    elif data.unlabelled == TARGETS:
        found, rows, passed = read(data, truth), None, []
        images, origin = (
            (source.train.images[:0] if found.targets is None else found.targets),
            "images of target domains",
        )
    else:
        images, origin, passed = in_folder(Path(data.unlabelled).expanduser(), data, source.train)
        rows = None
    if not len(images):
        raise UsageError("No image is without a label.", where="data.unlabelled", got=f"0 {origin}")
    digest, twice = described(images, [source.validation, source.test])
    if twice:
        passed.append(f"{len(twice):,} of the images without labels are validation or test images too: left out")
        kept = np.setdiff1d(np.arange(len(images)), twice)
        images, rows = chosen(images, kept), None if rows is None else rows[kept]
    for note in passed:
        say_once(f"data: {note}", "yellow")
    return Unlabelled(images, digest, origin, tuple(passed), rows)


def rest(train: Split, source: Source) -> np.ndarray:
    """Of the images that may have become training images those that are in none of the source's splits, int64 [N]."""
    assert train.rows is not None
    splits = (source.train, source.validation, source.test)
    used = np.concatenate([split.rows for split in splits if split.rows is not None])
    return np.flatnonzero(~np.isin(train.rows, used))


def in_folder(root: Path, data: Data, training: Split) -> tuple[Images, str, list[str]]:
    """The images at any depth, of the training images' size."""
    files, passed = listed(root)
    images = of_size(files, root, data, training.images.shape[1:])
    if data.channels == 1:
        images = in_channels(images, 1, root)
    if images.shape[-1] > training.images.shape[-1]:
        raise UsageError(
            "The images without labels have colours, and the labelled ones are grey.",
            where=root,
            hint="turn them grey, or give the labelled ones in colour",
        )
    return images, str(root), passed.notes(root)


def listed(root: Path) -> tuple[list[File], Passed]:
    """The images in a folder, at any depth."""
    if not root.is_dir():
        raise UsageError("data.unlabelled is not a folder.", where=root, allowed=f"a folder of images, or {REST!r}")
    passed = Passed()
    below = files_below(root, passed)
    files = [File(path) for path in below if path.suffix.lower() in SUFFIXES]
    if not files:
        raise UsageError("The folder has no images.", where=root, got=f"{len(below):,} other files")
    return files, passed


def of_size(files: list[File], root: Path, data: Data, shape: tuple[int, ...]) -> Images:
    """Their pixels, of the training images' ``shape``, [H, W, C]."""
    return read_images(files, (shape[0], shape[1]), root, data.fit or "crop")


def without_labels(source: Source) -> Source:
    """All images that ``source`` has for training, and its validation images, with no labels. Its hash is that of the
    images alone."""
    parts = [source.train.images, *([source.unlabelled.images] if source.unlabelled else [])]
    images: Images = parts[0] if len(parts) == 1 else Joined(parts)
    hashes = [described(each, ())[0] for each in (source.train.images, source.validation.images)]
    hashes += [source.unlabelled.hash] if source.unlabelled else []
    train, validation = (Split(each, np.zeros(len(each), np.int64)) for each in (images, source.validation.images))
    digest = content_hash(["without labels", *hashes])
    return replace(source, train=train, validation=validation, unlabelled=None, hash=digest)


def described(images: Images, judged: Iterable[Split]) -> tuple[str, list[int]]:
    """The hash of the images, and which of them are in a split; of kept images computed once."""
    splits = list(judged)

    def found() -> list[Any]:
        digest = source_hash((), [Split(images, np.empty(0, np.int64))])
        known = {each for split in splits for each in fingerprints(split.images)}
        return [digest, [row for row, each in enumerate(fingerprints(images)) if each in known]]

    key = hashlib.sha256(repr(("unlabelled", 2)).encode())
    for part in (images, *(split.images for split in splits)):
        if (known := identified(part)) is None:
            digest, twice = found()
            return digest, twice
        key.update(known)
    digest, twice = remembered(key.hexdigest(), found)
    return digest, twice
