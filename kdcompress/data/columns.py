"""The columns of a table of images: which one has the images, which the labels or the objects, and what their values
mean. Features are those of the library ``datasets``, known by what they have."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdcompress.data.annotated import Annotations, Marked
from kdcompress.data.objects import CROWD, OBJECT
from kdcompress.errors import UsageError, some
from kdcompress.recipe.training import Hub
from kdcompress.untrusted import MOST_CLASSES, text

LABELS = ("label", "labels", "class", "cls")  # usual names of columns, the first that is there
OBJECTS = "objects"
BOXES, CLASSES = ("bbox", "bboxes", "boxes"), ("category", "categories", "category_id", "label", "labels", "class")
CROWDS = ("iscrowd", "is_crowd")
PLAIN = ("int", "uint", "string", "large_string", "bool")  # what the types of labels begin with
HINT = "with `datasets`: load, filter, `save_to_disk`, and give that folder as data.root"


class Labels(NamedTuple):
    name: str
    names: tuple[str, ...] | None  # of the classes, by number; None: the values are the classes


class Objects(NamedTuple):
    """``boxes``, ``classes`` and ``crowds``: what the parts of an object are called."""

    name: str
    boxes: str
    classes: str
    crowds: str | None
    names: tuple[str, ...] | None
    corners: bool


def image_column(features: Mapping[str, Any], hub: Hub, origin: str) -> str:
    found = [name for name, feature in features.items() if _has_images(feature)]
    if hub.image:
        return _there(hub.image, features, "image", origin)
    if len(found) != 1:
        what = "The data set has several columns of images." if found else "The data set has no column of images."
        raise _unclear(what, "image", found or list(features), origin)
    return found[0]


def label_column(features: Mapping[str, Any], hub: Hub, origin: str) -> Labels:
    if hub.label:
        name = _there(hub.label, features, "label", origin)
    else:
        classes = [name for name, feature in features.items() if _names(feature) is not None]
        usual = [name for name in LABELS if name in features and _is_plain(features[name])]
        found = classes if len(classes) == 1 else [name for name in usual if not classes or name in classes][:1]
        if not found:
            what = "It is not clear which column has the labels."
            raise _unclear(what, "label", classes or list(features), origin)
        name = found[0]
    if not _is_plain(features[name]):
        allowed = "classes, whole numbers or texts, one an image"
        raise UsageError(
            "A column has no labels.", where=origin, got=f"{name}: {features[name]!r:.200}", allowed=allowed
        )
    return Labels(name, _checked(_names(features[name]), origin))


def has_objects(features: Mapping[str, Any]) -> bool:
    return OBJECTS in features and _parts(features[OBJECTS]) is not None


def objects_column(features: Mapping[str, Any], hub: Hub, origin: str) -> Objects:
    name = _there(hub.objects, features, "objects", origin) if hub.objects else OBJECTS
    parts = _parts(features[name]) if name in features else None
    if parts is None:
        raise _unclear("The data set has no column of objects.", "objects", list(features), origin)
    boxes, classes, crowds = (next((n for n in names if n in parts), None) for names in (BOXES, CLASSES, CROWDS))
    if boxes is None or classes is None:
        allowed = f"{' or '.join(BOXES)}, and {' or '.join(CLASSES)}"
        raise UsageError(
            "The objects have no boxes or no classes.", where=f"{origin}: {name}", got=", ".join(parts), allowed=allowed
        )
    names = _checked(_names(_inner(parts[classes])), origin)
    return Objects(name, boxes, classes, crowds, names, hub.boxes == "xyxy")


def classes_of(
    values: Mapping[str, Sequence[Any]], column: Labels, origin: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str]]:
    """The labels, the class of each image by split, int64 [N], and what should be known. A split but the training one
    that has no label at all, as public tests often are, is left out.

    Raises UsageError for images without a label, and for classes that the training images have not.
    """
    names = column.names or _sorted(values["train"])
    if len(names) < 2:
        got = f"{column.name}: {', '.join(names) or 'none'}"
        raise UsageError("A classifier needs at least 2 classes.", where=origin, got=got)
    numbers = {name: number for number, name in enumerate(names)}
    truth, notes = {}, []
    for split, its in values.items():
        found = np.array([_class(value, column.names, numbers) for value in its], np.int64)
        if split != "train" and (found < 0).all() and all(value in (None, -1) for value in its):
            notes.append(f"passed over of {origin}: the {split} images, which have no labels")
            continue
        if wrong := [f"{split}[{row}] ({its[row]!r:.40})" for row in np.flatnonzero(found < 0).tolist()]:
            what = "Images have no label, or one that the training images have not."
            raise UsageError(what, where=f"{origin}: {column.name}", got=some(wrong), hint=HINT)
        truth[split] = found
    return names, truth, notes


def annotations_of(values: Mapping[str, Sequence[tuple[str, Any]]], column: Objects) -> Annotations:
    """The objects of each image, which is given by what it is called and the column's value."""
    found = Annotations("object")
    each = {split: [(name, _objects(value, column)) for name, value in its] for split, its in values.items()}
    names = column.names or _sorted(kind for _, its in each["train"] for _, kind, _ in its)
    found.labels, numbers = list(names), {name: number for number, name in enumerate(names)}
    for split, its in each.items():
        found.splits[split] = []
        for name, objects in its:
            marked = Marked(name, None, [], [])
            found.splits[split].append(marked)
            for place, (box, kind, crowd) in enumerate(objects):
                where, number = f"object {place} of {name}", _class(kind, column.names, numbers)
                if not _is_box(box):
                    found.problems.add("boxes that are not 4 numbers", f"{where} ({box!r:.60})")
                elif number < 0:
                    what = "objects without a class, or of one that the training images have not"
                    found.problems.add(what, f"{where} ({kind!r:.40})")
                else:
                    x, y, right, low = map(float, box)
                    corner = [right, low] if column.corners else [x + right, y + low]
                    marked.objects.append([x, y, *corner, number, CROWD if crowd else OBJECT])
                    marked.ids.append(place)
    return found


def _objects(value: Any, column: Objects) -> list[tuple[Any, Any, Any]]:
    """(box, class, whether it is a crowd) of each object: of a list of them, or of lists of their parts."""
    if isinstance(value, list):
        return [tuple((one or {}).get(key) for key in (column.boxes, column.classes, column.crowds)) for one in value]  # type: ignore[misc]
    boxes, kinds = ((value or {}).get(key) or [] for key in (column.boxes, column.classes))
    crowds = (value or {}).get(column.crowds) or []
    count = max(len(boxes), len(kinds))
    filled = ([*part, *[None] * (count - len(part))] for part in (boxes, kinds, crowds))
    return list(zip(*filled))


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in box)


def _class(value: Any, known: Sequence[str] | None, numbers: Mapping[str, int]) -> int:
    """-1 for none."""
    if known is not None:
        return value if isinstance(value, int) and 0 <= value < len(known) else -1
    return -1 if value is None else numbers.get(_named(value), -1)


def _named(value: Any) -> str:
    return unicodedata.normalize("NFC", str(value))


def _sorted(values: Iterable[Any]) -> tuple[str, ...]:
    """Numbers by size, texts by their letters."""
    found = {value for value in values if value is not None and value != -1}
    whole = all(isinstance(value, int) for value in found)
    return tuple(map(str, sorted(found))) if whole else tuple(sorted(set(map(_named, found))))


def _checked(names: Sequence[str] | None, origin: str) -> tuple[str, ...] | None:
    """Raises UsageError for names that are none, or the same twice."""
    if names is None:
        return None
    made = tuple(_named(name) for name in names[: MOST_CLASSES + 1])
    if len(made) > MOST_CLASSES or not all(map(text, made)) or len(set(made)) < len(made):
        got = f"{len(names):,} names, {len(set(made)):,} of them different"
        raise UsageError("The classes' names cannot be used.", where=origin, got=got, allowed=f"{MOST_CLASSES:,} names")
    return made


def _names(feature: Any) -> Sequence[str] | None:
    """Of a column of classes; None for another."""
    return feature.names if hasattr(feature, "str2int") else None


def _is_plain(feature: Any) -> bool:
    return _names(feature) is not None or str(getattr(feature, "dtype", None)).startswith(PLAIN)


def _has_images(feature: Any) -> bool:
    return type(feature).__name__ == "Image" or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _inner(feature: Any) -> Any:
    """What a list is of."""
    return getattr(feature, "feature", feature)


def _parts(feature: Any) -> Mapping[str, Any] | None:
    """The parts of an object, of a list of them or of lists of their parts."""
    inner = _inner(feature)
    return inner if isinstance(inner, dict) else None


def _there(name: str, features: Mapping[str, Any], key: str, origin: str) -> str:
    if name not in features:
        raise _unclear(f"The data set has no column {name!r}.", key, list(features), origin)
    return name


def _unclear(what: str, key: str, columns: Sequence[str], origin: str) -> UsageError:
    return UsageError(what, where=origin, got=some(list(columns), 20) or "no columns", hint=f"name it: data.hub.{key}")
