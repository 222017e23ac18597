"""Pascal VOC's class maps, in the folders that torchvision's VOCSegmentation downloads: JPEGImages, SegmentationClass,
and lists of the splits in ImageSets/Segmentation."""

from __future__ import annotations

from pathlib import Path

from kdcompress.class_maps import IGNORED
from kdcompress.data.masks import Coding, Masked, read_masked
from kdcompress.data.source import root_of, sources
from kdcompress.data.splits import Found, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

LABELS = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
FOLDERS = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
LISTS = {"train": "train", "val": "validation", "test": "test"}
CODING = Coding({**{number: number for number in range(len(LABELS))}, IGNORED: IGNORED})


class VocSegmentation:
    """21 classes, the first the background; the borders of objects (255) are ignored. Without a list of their own,
    validation and test are cut from the training images."""

    resizes = True

    def find(self, data: Data) -> Found:
        root = root_of(data, f"the folder of {', '.join(FOLDERS)}, or one that holds VOCdevkit")
        inner = [root, *sorted(root.glob("VOCdevkit/VOC*"), reverse=True)] if root.is_dir() else []
        for folder in inner:
            if all((folder / name).is_dir() for name in FOLDERS):
                return Found(str(folder), True)
        missing = some([name for name in FOLDERS if not (root / name).is_dir()])
        raise UsageError("data.root has no class maps of Pascal VOC's form.", where=root, got=f"no {missing}")

    def read(self, data: Data) -> Raw:
        root = Path(self.find(data).origin)
        listed = {split: _names(path) for file, split in LISTS.items() if (path := _list(root, file)).is_file()}
        if "train" not in listed and (path := _list(root, "trainval")).is_file():
            listed = {"train": _names(path)}
        if not listed.get("train"):
            raise UsageError("There are no training images.", where=root / FOLDERS[2], allowed="train.txt")
        images, masks = (root / name for name in FOLDERS[:2])
        splits = {
            split: [(images / f"{name}.jpg", masks / f"{name}.png") for name in names]
            for split, names in listed.items()
            if names
        }
        return read_masked(Masked(LABELS, CODING, splits), data, root, "get the files again, or mend the lists")


def _list(root: Path, name: str) -> Path:
    return root / FOLDERS[2] / f"{name}.txt"


def _names(path: Path) -> list[str]:
    try:
        found = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("A list of images cannot be read.", where=path, got=error) from error
    if wrong := [name for name in found if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise UsageError("A list names images outside of the folder.", where=path, got=some(wrong))
    if again := sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []:
        raise UsageError("A list names images twice.", where=path, got=some(again))
    return found


sources.register("voc-segmentation")(VocSegmentation())
