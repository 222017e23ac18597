"""COCO: a folder of images, and one JSON file a split, or one for all, that says where which objects are in them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kdcompress.data.annotated import Annotations, Marked, is_there, parsed_once, read_annotated
from kdcompress.data.from_folder import SPLITS
from kdcompress.data.listing import Passed, entries
from kdcompress.data.objects import CROWD, OBJECT
from kdcompress.data.outlines import outline_of
from kdcompress.data.source import one_line, root_of, sources
from kdcompress.data.splits import Found, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

LAYOUTS = (
    "annotations/instances_train.json beside train/ or images/train/; train.json beside train/;"
    " train/_annotations.coco.json; or one file for all, beside images/"
)
OTHERS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")  # files of COCO's that hold no boxes
OFFICIAL = "val2017"  # the split that figures are published for
LOOKED = 50  # images by which their folder is found
HINT = "mend the JSON file, or leave the images and annotations that are meant out of it"


class Coco:
    """Classes are the categories in the order of their ids; ``iscrowd`` marks places that are ignored. Without files of
    their own, validation and test are cut from the training images, each class in proportion (see ``strata``); of
    COCO's own two files, val2017 is the test. Images become ``data.size`` as ``data.fit`` says, their boxes with them.
    """

    resizes = True

    def laid_out(self, root: Path) -> bool:
        return any(json_files(root))

    def find(self, data: Data) -> Found:
        root = root_of(data, "the folder of the images and the annotations")
        if not root.is_dir():
            raise UsageError("data.root is not a folder.", where=root)
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        return self._read(data)

    def read_masks(self, data: Data) -> Raw:
        """The same, with the mask of each object: its polygons, or its run-length code."""
        return self._read(data, masks=True)

    def _read(self, data: Data, masks: bool = False) -> Raw:
        root = Path(self.find(data).origin)
        files, note = annotation_files(root)
        facts = [*files, "masks"] if masks else list(files)
        found = parsed_once(list(files.values()), root, facts, lambda: parsed(files, masks))
        for split, path in files.items():
            folder = image_folder([each.file for each in found.splits[split][:LOOKED]], path, root, split)
            for each in found.splits[split]:
                each.file = str(folder / each.file)
        raw = read_annotated(found, data, root, HINT)
        raw.notes += [note] if note else []
        return raw


def annotation_files(root: Path) -> tuple[dict[str, Path], str | None]:
    """The JSON file of each split, and what should be known of that. Raises UsageError where it is not clear."""
    named: dict[str, list[Path]] = {}
    for file in json_files(root):
        named.setdefault(split_of(file, root), []).append(file)
    if list(named) == [""] and len(named[""]) == 1:
        return {"train": named[""][0]}, None
    files = {split: found[0] for split, found in named.items() if split}
    twice = [str(file.relative_to(root)) for found in named.values() for file in found if len(found) > 1]
    if not named or twice or "train" not in files:
        every = [str(file.relative_to(root)) for found in named.values() for file in found]
        what = "There are two annotation files for a split." if twice else "There are no training annotations."
        raise UsageError(what, where=root, got=some(twice or every) or "no JSON file", allowed=LAYOUTS)
    if "test" not in files and "validation" in files and OFFICIAL in files["validation"].stem:
        note = f"{files['validation'].name} is the test, as is usual; validation is cut from the training images"
        return {"train": files["train"], "test": files["validation"]}, note
    return {split: files[split] for split in ("train", "validation", "test") if split in files}, None


def json_files(root: Path) -> Iterator[Path]:
    """In the folder, in its ``annotations``, and in those of splits; of COCO's own, those with boxes."""
    folders, _ = entries(root, Passed())
    for folder in [root, *(f for f in folders if f.name.casefold() in ("annotations", *SPLITS))]:
        files = [file for file in entries(folder, Passed())[1] if file.suffix.lower() == ".json"]
        instances = [file for file in files if file.stem.startswith("instances")]
        yield from instances or [file for file in files if not file.stem.startswith(OTHERS)]


def split_of(file: Path, root: Path) -> str:
    """By the file's name, or its folder's; "" where neither says."""
    for name in (file.stem, file.parent.name if file.parent != root else ""):
        words = {SPLITS[word] for word in re.split("[^a-z]+", name.casefold()) if word in SPLITS}
        if len(words) == 1:
            return words.pop()
    return ""


def parsed(files: Mapping[str, Path], masks: bool = False) -> Annotations:
    """What the files say, images called as there; with outlines, where ``masks`` are wanted. Raises UsageError for what
    is no JSON, or none of COCO's form."""
    documents = {split: document(path) for split, path in files.items()}
    found = Annotations("annotation")
    names: dict[int, str] = {}  # of categories
    groups = without_objects(documents.values())
    for split, path in files.items():
        for category in documents[split]["categories"]:
            number, name = _of(category, "id"), _of(category, "name")
            if not _whole(number) or not isinstance(name, str) or not name.strip():
                found.problems.add("categories without an id or a name", f"{category!r:.80} in {path}")
                continue
            name = unicodedata.normalize("NFC", name)
            if number in groups:
                found.notes.add("categories that group the others, left out", f"{name} in {path}")
            elif names.setdefault(number, name) != name:
                found.problems.add("categories with two names", f"{number} in {path} ({name}, {names[number]})")
    order = sorted(names)
    found.labels = [names[number] for number in order]
    for name in sorted({label for label in found.labels if found.labels.count(label) > 1}):
        found.problems.add("names of two categories", name)
    for split, path in files.items():
        where = {number: row for row, number in enumerate(order)}
        found.splits[split] = _images(documents[split], path, where, found, masks)
    return found


def without_objects(documents: Collection[Mapping[str, Any]]) -> set[int]:
    """The ids of categories that only group others, as some programs write them: the others' ``supercategory``, of none
    themselves, and no object's."""
    every = [each for content in documents for each in content["categories"] if _whole(_of(each, "id"))]
    used = {
        number for content in documents for each in content["annotations"] if _whole(number := _of(each, "category_id"))
    }
    groups = {name for each in every if isinstance(name := _of(each, "supercategory"), str)} - {"", "none"}
    unused = [each for each in every if each["id"] not in used]
    return {
        one["id"] for one in unused if str(one.get("name")) in groups and one.get("supercategory") in (None, "", "none")
    }


def document(path: Path) -> dict[str, Any]:
    """Raises UsageError where the file is no JSON, or has not COCO's three lists, or no image."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError("The annotations are no JSON that can be read.", where=path, got=one_line(error)) from error
    keys = ("images", "annotations", "categories")
    wrong = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if wrong:
        got = f"no list of {', '.join(wrong)}"
        raise UsageError("The annotations are not COCO's.", where=path, got=got, allowed=f"lists of {', '.join(keys)}")
    empty = [key for key in ("images", "categories") if not content[key]]
    if empty:
        raise UsageError(f"The annotations list no {empty[0]}.", where=path, got=f'"{empty[0]}": []')
    return content


def _images(
    content: Mapping[str, Any], path: Path, numbers: Mapping[int, int], found: Annotations, masks: bool
) -> list[Marked]:
    """The images of a file with their objects; what is wrong is added to ``found``."""
    known: dict[int, Marked] = {}
    names = set[str]()
    for image in content["images"]:
        number, name = _of(image, "id"), _of(image, "file_name")
        if not _whole(number) or not isinstance(name, str) or not name:
            found.problems.add("images without an id or a file_name", f"{image!r:.80} in {path}")
        elif outward(name):
            found.problems.add("images outside of the folder", f"{name} in {path}")
        elif number in known or name in names:
            found.problems.add("images that are listed twice", f"{name} (id {number}) in {path}")
        else:
            names.add(name)
            sides = image.get("height"), image.get("width")
            said = (sides[0], sides[1]) if all(_whole(side) and side > 0 for side in sides) else None
            known[number] = Marked(name, said, [], [])
    for place, annotation in enumerate(content["annotations"]):
        number = _of(annotation, "id")
        called = number if _whole(number) else place
        where = f"annotation {called} in {path}"
        image, category, box = (_of(annotation, key) for key in ("image_id", "category_id", "bbox"))
        if not (_whole(image) and image in known):
            found.problems.add("annotations of unknown images", f"{where} (image_id {image!r:.40})")
        elif not (_whole(category) and category in numbers):
            found.problems.add("annotations of unknown categories", f"{where} (category_id {category!r:.40})")
        elif not (isinstance(box, list) and len(box) == 4 and all(map(_number, box))):
            found.problems.add("annotations without a bbox of 4 numbers", f"{where} (bbox {box!r:.60})")
        elif masks and (outline := outline_of(_of(annotation, "segmentation"))) is None:
            got = f"{_of(annotation, 'segmentation')!r:.40}"
            found.problems.add("annotations without a mask that can be read", f"{where} (segmentation {got})")
        else:
            x, y, width, height = map(float, box)
            kind = CROWD if annotation.get("iscrowd") else OBJECT
            known[image].objects.append([x, y, x + width, y + height, numbers[category], kind])
            known[image].ids.append(called)
            if masks and outline is not None:
                known[image].outlines.append(json.dumps(outline, separators=(",", ":")))
    return list(known.values())


def image_folder(names: list[str], path: Path, root: Path, split: str) -> Path:
    """The folder in which most of some images are."""
    tail = path.stem.removeprefix("instances").strip("_-")
    words = [tail, *(word for word, its in SPLITS.items() if its == split)]
    inner = [folder / word for word in words if word for folder in (root, root / "images", root / "data")]
    places = [path.parent, *inner, root / "images", root / "data", path.parent / "images", root]
    return max(places, key=lambda place: sum(is_there(place / name) for name in names))


def outward(name: str) -> bool:
    """Whether a file's name leads out of the folder that it is in."""
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name


def _of(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, float) or (_whole(value) and abs(value) < 2**53)


sources.register("coco")(Coco())
