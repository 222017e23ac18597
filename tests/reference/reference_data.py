"""The fixed images that the reference networks are judged on, and those that their int8 files are calibrated with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from kdcompress.data.from_torchvision import read_idx
from kdcompress.data.objects import packed
from kdcompress.data.scenes import Garments, Scene, scene

GARMENTS = 1000  # that scenes are made of: the first of the split
SIDE = 64  # of a scene, pixels
PARTS = {"test": "t10k", "train": "train"}


@dataclass(frozen=True)
class Fixed:
    """``images`` uint8 [N, H, W, C] of the test split with their ``truth``, and ``calibration``, uint8 [M, H, W, C], of
    the training split."""

    images: np.ndarray
    truth: np.ndarray
    calibration: np.ndarray

    @property
    def hash(self) -> str:
        """Of all of it, in short: a record of other images says nothing."""
        parts = (self.images, self.truth, self.calibration)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


def fixed(kind: str, folder: Path) -> Fixed:
    """``kind``: garments, or boxes; ``folder`` is that of Fashion-MNIST."""
    if kind == "garments":
        (images, truth), (calibration, _) = _first("test", 500, folder), _first("train", 128, folder)
        return Fixed(images[..., None], truth, calibration[..., None])
    its, others = _scenes("test", 100, folder), _scenes("train", 64, folder)
    return Fixed(_pixels(its), packed([each.objects for each in its]), _pixels(others))


def _first(split: str, count: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first garments of a split, uint8 [count, 28, 28], with their classes, int64 [count]."""
    names = (f"{PARTS[split]}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    images, classes = (read_idx(folder / name, n) for name, n in zip(names, (3, 1), strict=True))
    return images[:count].copy(), classes[:count].astype(np.int64)


@cache
def _scenes(split: str, count: int, folder: Path) -> list[Scene]:
    garments = Garments.of(*_first(split, GARMENTS, folder))
    return [scene(garments, ("reference", split, number), SIDE, SIDE) for number in range(count)]


def _pixels(scenes: list[Scene]) -> np.ndarray:
    return np.stack([each.pixels for each in scenes])
