"""Pascal VOC: JPEGImages, an XML file an image in Annotations, and lists of the splits in ImageSets/Main."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from kdcompress.data.annotated import Annotations, Marked, is_there, parsed_once, read_annotated
from kdcompress.data.image import SUFFIXES
from kdcompress.data.listing import Passed, entries
from kdcompress.data.objects import CROWD, OBJECT
from kdcompress.data.source import root_of, sources
from kdcompress.data.splits import Found, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

FOLDERS = ("JPEGImages", "Annotations")
LISTS = {"train": "train", "val": "validation", "test": "test"}
SIDES = ("xmin", "ymin", "xmax", "ymax")
HINT = "mend the XML files, or take the images out of ImageSets/Main"


class Voc:
    """Classes are the names of the objects, sorted. ``xmin`` and ``ymin`` count from 1, and the box has ``xmax`` and
    ``ymax`` in it, as in Pascal VOC's own files. Objects that are ``difficult`` are ignored. Without lists, or without
    one of their own, validation and test are cut from the training images.
    """

    resizes = True

    def laid_out(self, root: Path) -> bool:
        return all((root / name).is_dir() for name in FOLDERS)

    def find(self, data: Data) -> Found:
        root = root_of(data, f"the folder of {' and '.join(FOLDERS)}")
        missing = [name for name in FOLDERS if not (root / name).is_dir()]
        if missing:
            inner = [path.parent.name for path in sorted(root.glob("*/Annotations"))] if root.is_dir() else []
            hint = f"give one of its folders as data.root: {some(inner)}" if inner else None
            got = f"no {' and no '.join(missing)}"
            raise UsageError("data.root is no folder of Pascal VOC's form.", where=root, got=got, hint=hint)
        return Found(str(root), True)

    def read(self, data: Data) -> Raw:
        root = Path(self.find(data).origin)
        listed = listed_names(root)
        files = [path for names in listed.values() for name in names if is_there(path := xml_of(root, name))]
        if not files:
            raise UsageError("There are no annotations.", where=root / "Annotations", got="no XML file of an image")
        images = {f.stem: f for f in entries(root / "JPEGImages", Passed())[1] if f.suffix.lower() in SUFFIXES}
        found = parsed_once(files, root, (listed, images), lambda: parsed(root, listed, images))
        return read_annotated(found, data, root, HINT)


def listed_names(root: Path) -> dict[str, list[str]]:
    """The images of each split, by their names without a suffix. Raises UsageError for lists that are broken."""
    folder, names = root / "ImageSets" / "Main", dict[str, list[str]]()
    for file, split in [*LISTS.items(), ("trainval", "train")]:
        path = folder / f"{file}.txt"
        if split in names or not path.is_file():
            continue
        try:
            lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("A list of images cannot be read.", where=path, got=error) from error
        names[split] = [words[0] for words in lines if words]
        wrong = [name for name in names[split] if Path(name).is_absolute() or ".." in Path(name).parts]
        again = sorted({name for name in names[split] if names[split].count(name) > 1}) if _twice(names[split]) else []
        if wrong or again:
            what = "A list names images outside of the folder." if wrong else "A list names images twice."
            raise UsageError(what, where=path, got=some(wrong or again))
    if not names:
        every = [file.stem for file in entries(root / "Annotations", Passed())[1] if file.suffix.lower() == ".xml"]
        return {"train": every}
    if not names.get("train"):
        raise UsageError("There are no training images.", where=folder, got=", ".join(names), allowed="train.txt")
    return {split: names[split] for split in ("train", "validation", "test") if names.get(split)}


def _twice(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def xml_of(root: Path, name: str) -> Path:
    return root / "Annotations" / f"{name}.xml"


def parsed(root: Path, listed: Mapping[str, list[str]], images: Mapping[str, Path]) -> Annotations:
    found = Annotations("object")
    named: dict[str, list[tuple[Marked, list[str]]]] = {}
    for split, names in listed.items():
        named[split] = [_marked(xml_of(root, name), images.get(name), root, found) for name in names]
    found.labels = sorted({label for its in named.values() for _, labels in its for label in labels})
    numbers = {label: number for number, label in enumerate(found.labels)}
    for split, its in named.items():
        for marked, labels in its:
            for row, label in zip(marked.objects, labels, strict=True):
                row[4] = numbers[label]
        found.splits[split] = [marked for marked, _ in its]
    return found


def _marked(path: Path, image: Path | None, root: Path, found: Annotations) -> tuple[Marked, list[str]]:
    """An image and its objects, and the names of their classes, whose numbers are not known yet."""
    marked, labels = Marked(str(image or root / "JPEGImages" / f"{path.stem}.jpg"), None, [], []), list[str]()
    try:
        content = path.read_bytes()
        if b"<!ENTITY" in content:
            raise ValueError("it defines entities, which no annotation needs")
        tree = ElementTree.fromstring(content)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        got = error.strerror if isinstance(error, OSError) and error.strerror else error
        found.problems.add("XML files that cannot be read", f"{path}: {got}")
        return marked, labels
    sides = [_number(tree.findtext(f"size/{side}")) for side in ("height", "width")]
    if all(side and 0 < side < 2**31 for side in sides):
        marked.said = (int(sides[0] or 0), int(sides[1] or 0))
    for number, thing in enumerate(tree.iter("object"), 1):
        name, box = (
            (thing.findtext("name") or "").strip(),
            [_number(thing.findtext(f"bndbox/{side}")) for side in SIDES],
        )
        if not name:
            found.problems.add("objects without a name", f"object {number} of {path}")
        elif any(side is None for side in box):
            found.problems.add(f"objects without {', '.join(SIDES)}", f"object {number} of {path}")
        else:
            left, top, right, bottom = (side or 0.0 for side in box)
            kind = CROWD if (thing.findtext("difficult") or "0").strip() == "1" else OBJECT
            marked.objects.append([left - 1, top - 1, right, bottom, 0, kind])
            marked.ids.append(number)
            labels.append(unicodedata.normalize("NFC", name))
    return marked, labels


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


sources.register("voc")(Voc())
