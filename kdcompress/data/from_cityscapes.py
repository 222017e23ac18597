"""Cityscapes, in its own folders: leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and
gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png."""

from __future__ import annotations

from pathlib import Path

from kdcompress.class_maps import IGNORED
from kdcompress.data.masks import Coding, Masked, read_masked
from kdcompress.data.source import root_of, sources
from kdcompress.data.splits import Found, Raw
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

IMAGES, MASKS = "leftImg8bit", "gtFine"


class Cityscapes:
    """The 19 classes that Cityscapes itself scores; the others are ignored. The public test images have no masks: the
    test images are cut from the training images, and those of ``val`` are the validation images."""

    resizes = True

    def find(self, data: Data) -> Found:
        root = root_of(data, f"the folder of {IMAGES} and {MASKS}")
        if missing := [f"{name}/train" for name in (IMAGES, MASKS) if not (root / name / "train").is_dir()]:
            raise UsageError("data.root is no folder of Cityscapes.", where=root, got=f"no {' and no '.join(missing)}")
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        root = Path(self.find(data).origin)
        splits = {split: _pairs(root, folder) for split, folder in (("train", "train"), ("validation", "val"))}
        if not splits["train"]:
            raise UsageError("There are no training images.", where=root / IMAGES / "train", allowed=f"*_{IMAGES}.png")
        labels, coding = _labels()
        found = Masked(labels, coding, {split: files for split, files in splits.items() if files})
        return read_masked(found, data, root, "get the files of gtFine and leftImg8bit again")


def _pairs(root: Path, folder: str) -> list[tuple[Path, Path]]:
    found = []
    for image in sorted((root / IMAGES / folder).glob(f"*/*_{IMAGES}.png")):
        name = image.name.removesuffix(f"_{IMAGES}.png")
        found.append((image, root / MASKS / folder / image.parent.name / f"{name}_{MASKS}_labelIds.png"))
    return found


def _labels() -> tuple[tuple[str, ...], Coding]:
    """By torchvision's table: a class has an id, which the masks hold, and a number among those that are scored."""
    from torchvision.datasets import Cityscapes as Table

    scored = sorted((each.train_id, each.name) for each in Table.classes if not each.ignore_in_eval)
    values = {each.id: IGNORED if each.ignore_in_eval else each.train_id for each in Table.classes if each.id >= 0}
    return tuple(name for _, name in scored), Coding({**values, IGNORED: IGNORED})


sources.register("cityscapes")(Cityscapes())
