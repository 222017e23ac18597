"""What a data set is: its files as they are listed, its images as they are read, and its three splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kdcompress.data.kept import Images, chosen
from kdcompress.data.truth import Truth

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """``images`` uint8 [N, H, W, C], in memory or in a file, and what is right for each: class numbers from 0, int64
    [N], sets of labels, uint8 [N, K], objects, float32 [N, M, 6] (objects.py), perhaps with masks (outlined.py), or
    class maps, uint8 [N, H, W] (maps.py)."""

    images: Images
    truth: Truth
    rows: np.ndarray | None = None  # int64 [N]: which of the images that were read, counted through all splits

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, indices: np.ndarray) -> Split:
        """The samples at ``indices`` (int64 [M]), in that order, as a copy; those of a file are not read."""
        rows = None if self.rows is None else self.rows[indices]
        return Split(chosen(self.images, indices), self.truth[indices], rows)


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Images without labels, uint8 [N, H, W, C]; C may be 1 where the labelled ones have 3."""

    images: Images
    hash: str  # SHA-256 of the images
    origin: str
    notes: tuple[str, ...] = ()
    rows: np.ndarray | None = None  # int64 [N], as of a Split; None for a folder of their own


@dataclass(frozen=True, eq=False)
class Source:
    """A data set, split and described. ``mean`` and ``std`` are those of the training split's pixels
    scaled to 0..1, one a channel."""

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str  # SHA-256 of the labels' names and of the images and truths of the three splits
    origin: str  # where the files were found
    licence: str | None = None
    notes: tuple[str, ...] = ()  # what a user should know: files that were passed over, images in two splits
    unlabelled: Unlabelled | None = None  # beside the training images
    shown: Source | None = None  # the same images as teachers see them, where that is not as they are here
    like: tuple[int, ...] | None = None  # of what teachers see: [H, W, C] of the student's, whose pixels views count
    domains: Mapping[str, np.ndarray] = field(default_factory=dict)  # of several: places of each in test, int64 [N]


@dataclass(frozen=True)
class Found:
    """Where the files of a source are (``ready``), or where they would be downloaded to."""

    origin: str
    ready: bool
    tried: tuple[str, ...] = ()  # one line a place: what was there


@dataclass
class Raw:
    """What a family reads from its files; the splits that are None are cut from ``train``."""

    labels: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split | None
    origin: str
    licence: str | None = None
    notes: list[str] = field(default_factory=list)
    files: Sequence[object] = ()  # where each image is from: those of train, then validation, test and targets
    targets: Images | None = None  # of other domains than the labelled one, without labels
    domains: Mapping[str, range] = field(default_factory=dict)  # of several: the rows of each one's test images

    def __post_init__(self) -> None:
        start = 0
        for name in SPLITS:
            if (split := getattr(self, name)) is not None:
                setattr(self, name, replace(split, rows=np.arange(start, start := start + len(split))))

    def name(self, row: int) -> str:
        """What a reader knows an image by."""
        if self.files:
            return str(self.files[row])
        for name in SPLITS:
            if (split := getattr(self, name)) is not None:
                if row < len(split):
                    break
                row -= len(split)
        return f"image {row} of {name}"


@dataclass(frozen=True, eq=False)
class Listed:
    """What a folder of images says of itself before any is decoded."""

    labels: tuple[str, ...]
    files: Mapping[str, Sequence[Path]]  # by split: train, and validation and test as far as they are there
    truth: Mapping[str, Truth]  # what is right for each file, as in a Split
    origin: str
    notes: Sequence[str] = ()

    @property
    def paths(self) -> list[Path]:
        return [path for name in SPLITS if name in self.files for path in self.files[name]]

    def raw(self, images: Images) -> Raw:
        """With the images of ``paths``, in that order."""
        splits, start = {}, 0
        for name in SPLITS:
            if name in self.files:
                stop = start + len(self.files[name])
                splits[name] = Split(chosen(images, slice(start, stop)), self.truth[name])
                start = stop
        return Raw(
            self.labels, splits["train"], splits.get("validation"), splits.get("test"), self.origin,
            notes=list(self.notes), files=self.paths,
        )  # fmt: skip
