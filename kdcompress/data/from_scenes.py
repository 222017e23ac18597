"""fashion-mnist-scenes: pictures with several objects each, made of the garments of Fashion-MNIST (scenes.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial
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
from kdcompress.data.truth import Truth
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

NAME, GARMENTS = "fashion-mnist-scenes", "fashion-mnist"
VERSION = 1  # of what a scene's key makes
BACKGROUND = "background"  # of a class map: its first label
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
        made = self._made(data)
        return self._raw(made, *made.images_and_objects(), _garments().labels)

    def read_masks(self, data: Data) -> Raw:
        """The same scenes, with the exact mask of what is seen of each garment."""
        made = self._made(data)
        images, objects = made.images_and_objects()
        return self._raw(made, images, Outlined.of(objects, made.codes(), made.size), _garments().labels)

    def read_maps(self, data: Data) -> Raw:
        """The same scenes, with the class of each pixel: 0 for the background, then the garments'."""
        made = self._made(data)
        images, maps = made.images_and_maps()
        return self._raw(made, images, maps, (BACKGROUND, *_garments().labels))

    def _made(self, data: Data) -> _Made:
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
        return _Made(name, counts, data.split_seed, (height, width), folder)

    def _raw(self, made: _Made, images: kept.Images, truth: Truth, labels: tuple[str, ...]) -> Raw:
        splits, start = {}, 0
        for split, count in made.counts.items():
            where = slice(start, start := start + count)
            splits[split] = Split(kept.chosen(images, where), truth[where])
        train, validation, test = (splits[split] for split in SPLITS)
        return Raw(labels, train, validation, test, str(made.folder), _garments().licence)


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


class _Made:
    """The scenes of all splits: kept, or made in threads. What is asked for together is made together."""

    def __init__(self, name: str, counts: Mapping[str, int], seed: int, size: tuple[int, int], folder: Path):
        self.name, self.counts, self.seed, self.size, self.folder = name, counts, seed, size, folder
        self.places = [(split, number) for split, count in counts.items() for number in range(count)]
        self._boxes: list[list[list[int]]] = []

    @cached_property
    def _scene(self) -> Callable[[str, int], Scene]:
        """The garments are read once, and only where a scene is made."""
        return make(self.folder, self.seed, *self.size)

    def images_and_objects(self) -> tuple[kept.Images, np.ndarray]:
        """The images, and the objects of each, float32 [N, M, 6] (objects.py)."""
        images = self._kept("pixels", 3, self._fill, lambda its: its.pixels)

        def boxes() -> list[list[list[int]]]:
            if not self._boxes:
                self._fill(lambda row, pixels: None)
            return self._boxes

        each = [np.array(its, np.int64).reshape(-1, CLASS + 1) for its in kept.remembered(self._hash("objects"), boxes)]
        return images, packed([rows(its[:, BOX], its[:, CLASS]) for its in each])

    def codes(self) -> list[bytes]:
        """Those of the masks of all objects, scene by scene."""

        def found() -> list[str]:
            scene_of = self._scene  # read before there are threads
            each = in_threads(lambda place: codes(scene_of(*place).masks), self.places)
            return [code.decode("ascii") for its in each for code in its]

        return [code.encode("ascii") for code in kept.remembered(self._hash("masks"), found)]

    def images_and_maps(self) -> tuple[kept.Images, np.ndarray]:
        """The images, and of each the class map, uint8 [N, H, W]."""
        maps = np.zeros((len(self.places), *self.size), np.uint8)
        there = np.zeros(len(self.places), bool)

        def mapped(row: int, its: Scene) -> None:
            maps[row], there[row] = class_map(its), True

        def fill(put: Callable[[int, np.ndarray], None]) -> None:
            if not there.all():
                self._fill(lambda row, pixels: None, mapped)
            for row, each in enumerate(maps):
                put(row, each[..., None])

        images = self._kept("pixels", 3, partial(self._fill, also=mapped), lambda its: its.pixels)
        return images, self._kept("maps", 1, fill, lambda its: class_map(its)[..., None])[:][..., 0]

    def _hash(self, part: str) -> str:
        return hashlib.sha256(f"{self.name} {part}".encode()).hexdigest()

    def _kept(self, part: str, channels: int, fill: kept.Fill, of: Callable[[Scene], np.ndarray]) -> kept.Images:
        shape = (len(self.places), *self.size, channels)
        found: kept.Images | None = kept.made_once(
            self._hash(part), shape, fill, lambda row, _: of(self._scene(*self.places[row]))
        )
        if found is None:
            found = allocate(shape, self.folder)
            fill(partial(np.ndarray.__setitem__, found))
        return found

    def _fill(
        self, put: Callable[[int, np.ndarray], None], also: Callable[[int, Scene], None] = lambda row, its: None
    ) -> None:
        scene_of = self._scene  # read before there are threads

        def one(row: int) -> list[list[int]]:
            its = scene_of(*self.places[row])
            put(row, its.pixels)
            also(row, its)
            boxes: list[list[int]] = its.objects[:, : CLASS + 1].astype(int).tolist()
            return boxes

        self._boxes = list(in_threads(one, range(len(self.places))))


def class_map(its: Scene) -> np.ndarray:
    """The class of each pixel, uint8 [H, W]: 0 for the background, then the garments' from 1."""
    found = np.zeros(its.pixels.shape[:2], np.uint8)
    for mask, row in zip(its.masks, its.objects, strict=True):  # no pixel is in two
        found[mask] = 1 + int(row[CLASS])
    return found


def _garments() -> IdxSource:
    family = sources[GARMENTS]
    assert isinstance(family, IdxSource)
    return family


def _its(data: Data) -> Data:
    """What the family of the garments is asked for."""
    return Data(source=GARMENTS, root=data.root)


sources.register(NAME)(Scenes())
