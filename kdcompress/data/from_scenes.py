"""fashion-mnist-scenes: pictures with several objects each, made of the garments of Fashion-MNIST (scenes.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kdcompress.data import kept
from kdcompress.data.decode import File, allocate, identity, in_threads
from kdcompress.data.fit import frame_of
from kdcompress.data.from_torchvision import IdxSource
from kdcompress.data.objects import BOX, CLASS, packed, rows
from kdcompress.data.outlined import Outlined, codes
from kdcompress.data.scenes import Garments, Scene, scene
from kdcompress.data.source import sources, stratified_order
from kdcompress.data.splits import SPLITS, Found, Raw, Split
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

NAME, GARMENTS = "fashion-mnist-scenes", "fashion-mnist"
VERSION = 1  # of what a scene's key makes
COUNTS = {"train": 5000, "validation": 500, "test": 1000}
SIDE, LEAST = 128, 32  # pixels
APART = 10  # one in so many garments for training is one of the validation scenes


class Scenes:
    """5,000 training scenes (or ``data.train_images``), 500 for validation and 1,000 for the test, of 128 x 128 pixels
    (or ``data.size``). No garment is in two splits; those of the test scenes are Fashion-MNIST's own test images. Made
    once, and kept. Another ``data.split_seed`` makes other scenes.
    """

    resizes = True
    made_of = GARMENTS

    def find(self, data: Data) -> Found:
        return _garments().find(_its(data))

    def read(self, data: Data) -> Raw:
        """Raises UsageError where the garments cannot be had, and for a size that is too small."""
        height, width = frame_of(data.size or SIDE)
        if min(height, width) < LEAST:
            raise UsageError("A scene needs more pixels.", where="data.size", got=f"{height} x {width}", allowed=LEAST)
        family, found = _garments(), self.find(data)
        if not found.ready:  # downloaded
            found = Found(family.read(_its(data)).origin, True)
        folder = Path(found.origin)
        counts = {**COUNTS, "train": data.train_images or COUNTS["train"]}
        source = identity([File(path) for path in family.paths(folder)], None, folder)
        name = repr((NAME, VERSION, data.split_seed, height, width, counts, source))
        images, boxes = _made(name, counts, data.split_seed, (height, width), folder)
        objects = packed([rows(each[:, BOX], each[:, CLASS]) for each in boxes])
        splits, start = {}, 0
        for split, count in counts.items():
            where = slice(start, start := start + count)
            splits[split] = Split(kept.chosen(images, where), objects[where])
        train, validation, test = (splits[split] for split in SPLITS)
        return Raw(family.labels, train, validation, test, found.origin, family.licence)

    def read_masks(self, data: Data) -> Raw:
        """The same, with the exact mask of what is seen of each garment."""
        raw = self.read(data)
        counts = {name: len(getattr(raw, name)) for name in SPLITS}
        outlined = _outlined(raw, counts, data.split_seed)
        start = 0
        for name, count in counts.items():
            truth = outlined[start : (start := start + count)]
            setattr(raw, name, replace(getattr(raw, name), truth=truth))
        return raw


def make(folder: Path, seed: int, height: int, width: int) -> Callable[[str, int], Scene]:
    """What makes the scene of a split and a number, with its exact masks; of the garments in ``folder``."""
    pools = garments(folder, seed)
    return lambda split, number: scene(pools[split], (seed, split, number), height, width)


def garments(folder: Path, seed: int) -> Mapping[str, Garments]:
    """Those of each split. Raises UsageError for broken files."""
    raw = _garments().read_folder(folder)
    assert raw.test is not None
    train, test = (Garments.of(split.images[:][..., 0], split.truth) for split in (raw.train, raw.test))
    order = stratified_order(train.classes, (seed, "garments"))
    apart, rest = np.split(order, [max(1, len(train) // APART)])
    return {"train": train.take(np.sort(rest)), "validation": train.take(np.sort(apart)), "test": test}


def _made(
    name: str, counts: Mapping[str, int], seed: int, size: tuple[int, int], folder: Path
) -> tuple[kept.Images, list[np.ndarray]]:
    """The images, and of each the boxes and classes, int64 [m, 5]: kept, or made in threads."""
    places = [(split, number) for split, count in counts.items() for number in range(count)]
    found: list[list[list[int]]] = []
    maker: list[Callable[[str, int], Scene]] = []  # the garments are read once, and only where a scene is made

    def made(row: int) -> Scene:
        return maker[0](*places[row])

    def prepare() -> None:
        maker[:] = maker or [make(folder, seed, *size)]

    def again(row: int, _: tuple[int, ...]) -> np.ndarray:
        prepare()
        return made(row).pixels

    def fill(put: Callable[[int, np.ndarray], None]) -> None:
        prepare()

        def one(row: int) -> list[list[int]]:
            its = made(row)
            put(row, its.pixels)
            boxes: list[list[int]] = its.objects[:, : CLASS + 1].astype(int).tolist()
            return boxes

        found[:] = in_threads(one, range(len(places)))

    def boxes() -> list[list[list[int]]]:
        if not found:
            fill(lambda row, pixels: None)
        return found

    shape = (len(places), *size, 3)
    pixels, objects = (hashlib.sha256(f"{name} {part}".encode()).hexdigest() for part in ("pixels", "objects"))
    images: kept.Images | None = kept.made_once(pixels, shape, fill, again)
    if images is None:
        images = allocate(shape, folder)
        fill(partial(np.ndarray.__setitem__, images))
    return images, [np.array(each, np.int64).reshape(-1, CLASS + 1) for each in kept.remembered(objects, boxes)]


def _outlined(raw: Raw, counts: Mapping[str, int], seed: int) -> Outlined:
    """The objects of all splits with their masks: those are kept, or made in threads."""
    folder, size = Path(raw.origin), raw.train.images.shape[1:3]

    def found() -> list[str]:
        maker = make(folder, seed, *size)
        places = [(split, number) for split, count in counts.items() for number in range(count)]
        each = in_threads(lambda place: codes(maker(*place).masks), places)
        return [code.decode("ascii") for scene in each for code in scene]

    source = identity([File(path) for path in _garments().paths(folder)], None, folder)
    name = repr((NAME, VERSION, seed, size, counts, source, "masks"))
    every = kept.remembered(hashlib.sha256(name.encode()).hexdigest(), found)
    objects = np.concatenate([getattr(raw, split).truth for split in counts])
    return Outlined.of(objects, [code.encode("ascii") for code in every], (size[0], size[1]))


def _garments() -> IdxSource:
    family = sources[GARMENTS]
    assert isinstance(family, IdxSource)
    return family


def _its(data: Data) -> Data:
    """What the family of the garments is asked for."""
    return Data(source=GARMENTS, root=data.root)


sources.register(NAME)(Scenes())
