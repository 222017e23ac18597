"""Answers to the images of a set, in a file: what a teacher that is not here said of each.

A .npz file, as ``numpy.savez`` writes it. N images, K classes, V views of each:

    sha256                     the images: SHA-256 of the pixels of each, uint8 [H, W, C] at the recipe's size; text of
                               64 hexadecimal digits [N], or uint8 [N, 32]
    paths                      or their paths, text [N], relative to data.root, or to the folder data.unlabelled
    logits or probabilities    what was said: float16, float32 or float64 [N, K], or [N, V, K]
    labels                     the classes' names, text [K], in the order of the answers; left out: the source's order
    augment, views             with V views: what made them (JSON text), and V; left out: the images as they are
    sets                       how many images of each set, int [S], where several are in it, one behind the other

`kdcompress cache export` writes ``values`` float16 [N, V, k + 1] and ``classes`` uint8, int16 or int32 [N, V, k] in the
place of logits where the k largest are kept (training/packing.py), and ``about``, what they are, as JSON text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import replacing
from kdcompress.data import endpoint, npz
from kdcompress.data.kept import Images
from kdcompress.data.source import blocks
from kdcompress.errors import UsageError, some
from kdcompress.untrusted import MOST_CLASSES, parse_json

KINDS = {
    "sha256": "USu",
    "paths": "US",
    "logits": "f",
    "probabilities": "f",
    "values": "f",
    "classes": "iu",
    "labels": "US",
    "augment": "US",
    "views": "iu",
    "sets": "iu",
    "about": "US",
}
SAID = ("logits", "probabilities", "values")
FLOOR = 1e-12  # probability of a class that was given none, or less: a logarithm has to be there
SUM = 0.02  # by which a sum of probabilities may miss 1
PART = 1 << 16  # answers that are looked at at once


@dataclass(frozen=True, eq=False)
class GivenAnswers:
    """``keys``: of each image, its hash (uint8 [N, 32]) or its path. ``augment``: what made the views; None: they are
    the images as they are. Raises UsageError for arrays that do not fit each other."""

    path: Path
    keys: np.ndarray
    arrays: Mapping[str, np.ndarray]  # one of SAID, [N, V, ...], and classes
    classes: int
    labels: tuple[str, ...] | None
    views: int = 1
    augment: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    sets: tuple[int, ...] = ()  # images of each set; none: they are one

    @property
    def by_path(self) -> bool:
        return self.keys.dtype.kind in "US"

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """float32 [len(rows), K]; row i * V + v is view v of image i. Of probabilities, their logarithms."""
        found = {name: array.reshape(-1, array.shape[-1])[rows] for name, array in self.arrays.items()}
        if "logits" in found:
            return found["logits"].astype(np.float32)
        if "probabilities" in found:
            return np.log(np.maximum(found["probabilities"].astype(np.float64), FLOOR)).astype(np.float32)
        values, first = found["values"].astype(np.float32), found["values"][:, :1].astype(np.float32)
        z = np.repeat(first + values[:, -1:], self.classes, axis=1)
        top = np.concatenate([first, first + values[:, 1:-1]], 1)
        np.put_along_axis(z, found["classes"].astype(np.int64), top, 1)
        return z

    def places(self, keys: np.ndarray) -> np.ndarray:
        """int64: where in the file the images of these hashes (uint8 [M, 32]) or paths are, -1 where they are not."""
        mine, theirs = (_sortable(each) for each in (self.keys, keys))
        order = np.argsort(mine, kind="stable")
        at = np.minimum(np.searchsorted(mine[order], theirs), len(mine) - 1)
        return np.where(mine[order][at] == theirs, order[at], -1)


def _sortable(keys: np.ndarray) -> np.ndarray:
    """Hashes as text of their bytes: all have 32, so that none is cut off at a zero."""
    return keys if keys.dtype.kind in "US" else np.ascontiguousarray(keys).view("S32").ravel()


def digests(images: Images) -> np.ndarray:
    """SHA-256 of the pixels of each of uint8 [N, H, W, C], uint8 [N, 32]."""
    found = [hashlib.sha256(image.tobytes()).digest() for block in blocks(images) for image in block]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)


def read_answers(path: Path, labels: tuple[str, ...]) -> GivenAnswers:
    """The answers in a file, or in tables (endpoint.py), to images of a source with these ``labels``. Read again only
    where they have changed. Raises UsageError for what is none."""
    tables = path.is_dir() or path.suffix.lower() in endpoint.SUFFIXES
    try:
        stats = [each.stat() for each in (endpoint.files_of(path) if tables else [path])]
    except OSError as error:
        raise UsageError("There is no such file of answers.", where=path, got=error.strerror) from error
    stamp = tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
    return _read(path, labels if tables else None, stamp)


@lru_cache(4)
def _read(path: Path, labels: tuple[str, ...] | None, _: Any) -> GivenAnswers:
    found = npz.arrays(path, KINDS) if labels is None else endpoint.read_tables(path, labels)
    with npz.told(path):
        return made(path, found, labels)


def made(path: Path, found: Mapping[str, np.ndarray], labels: tuple[str, ...] | None = None) -> GivenAnswers:
    """Of the arrays of a file, or of tables with these ``labels``. Raises UsageError, or ValueError, where they do not
    fit each other."""
    said = [name for name in SAID if name in found]
    keys = [name for name in ("sha256", "paths") if name in found]
    if len(said) != 1 or len(keys) != 1 or ("values" in found) != ("classes" in found):
        raise UsageError(
            "A file of answers says which images they are of, and what they are.",
            where=path,
            got=", ".join(found) or "nothing",
            allowed="sha256 or paths, and logits or probabilities",
        )
    views = int(found["views"]) if "views" in found else 1
    labels = tuple(_text(found["labels"]).tolist()) if "labels" in found else labels
    augment = parse_json(str(_text(found["augment"]))) if "augment" in found else None
    about = parse_json(str(_text(found["about"]))) if "about" in found else {}
    if not isinstance(about, dict) or not (augment is None or isinstance(augment, dict)):
        raise ValueError("augment and about are JSON objects")
    keyed = _keys(found[keys[0]], keys[0])
    arrays = {name: found[name] for name in (said[0], "classes") if name in found}
    arrays = {name: array[:, None] if array.ndim == 2 and views == 1 else array for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.ndim != 3 or array.shape[:2] != (len(keyed), views) or not array.size:
            got = f"{name} {list(found[name].shape)}, {len(keyed):,} images, {views:,} views"
            raise UsageError("The answers are not one to each view of each image.", where=path, got=got)
    width = arrays[said[0]].shape[2]
    classes = width if said[0] != "values" else len(labels or ())
    if labels is not None and len(labels) != classes or not 2 <= classes <= MOST_CLASSES:
        got = f"answers of {width:,} values, {len(labels or ()):,} labels"
        raise UsageError("The answers are not of the classes that the file names.", where=path, got=got)
    if labels is not None and len(set(labels)) < classes:
        raise UsageError("A class has its name twice.", where=path, got=some(sorted(labels)))
    if augment is None and views > 1:
        raise UsageError("The file does not say what its views are.", where=path, got=f"{views} views, and no augment")
    sets = tuple(map(int, found["sets"])) if "sets" in found else (len(keyed),)
    if sum(sets) != len(keyed) or min(sets) < 1:
        raise ValueError(f"sets of {sets} images, {len(keyed):,} in all")
    answers = GivenAnswers(path, keyed, arrays, classes, labels, views, augment, about, sets)
    _check_values(answers)
    return answers


def _text(array: np.ndarray) -> np.ndarray:
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _keys(array: np.ndarray, name: str) -> np.ndarray:
    if name == "sha256" and array.dtype == np.uint8:
        if array.ndim != 2 or array.shape[1] != 32:
            raise ValueError(f"sha256 of shape {list(array.shape)}: 32 bytes each, or text")
        return array
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} of shape {list(array.shape)}: one for each image")
    if name == "paths":
        return _text(array)
    listed = [bytes.fromhex(each) for each in _text(array).tolist()]
    if any(len(each) != 32 for each in listed):
        raise ValueError("sha256: 64 hexadecimal digits each")
    return np.frombuffer(b"".join(listed), np.uint8).reshape(-1, 32)


def _check_values(answers: GivenAnswers) -> None:
    """Raises UsageError for numbers that are none, and what is no distribution, with the first image that has it."""
    flat = {name: array.reshape(-1, array.shape[-1]) for name, array in answers.arrays.items()}
    rows = len(answers.keys) * answers.views
    for start in range(0, rows, PART):
        part = {name: array[start : start + PART] for name, array in flat.items()}
        wrong = np.zeros(len(next(iter(part.values()))), bool)
        for name, values in part.items():
            wrong |= ~np.isfinite(values).all(1)
            if name == "probabilities":
                sums = values.sum(1, dtype=np.float64)
                wrong |= (values < 0).any(1) | ~(np.abs(sums - 1) <= SUM)
            if name == "classes":
                ordered = np.sort(values.astype(np.int64), 1)
                wrong |= (ordered[:, 0] < 0) | (ordered[:, -1] >= answers.classes)
                wrong |= (np.diff(ordered, axis=1) == 0).any(1)
            if name == "values":
                wrong |= np.full(len(values), values.shape[1] != part["classes"].shape[1] + 1)
        if wrong.any():
            row = start + int(np.argmax(wrong))
            shown = np.array2string(next(iter(part.values()))[row - start][:8].astype(np.float64), precision=3)
            raise UsageError(
                "An answer is none: its numbers are not finite, or its probabilities do not add up to 1.",
                where=answers.path,
                got=f"image {row // answers.views}, view {row % answers.views}: {shown}",
                allowed="finite logits; probabilities of 0 or more that add up to 1; each class once",
            )


def write_answers(
    path: Path,
    sets: Sequence[np.ndarray],
    arrays: Mapping[str, np.ndarray],
    labels: Sequence[str],
    augment: Mapping[str, Any] | None,
    about: Mapping[str, Any],
) -> None:
    """A file of answers to every view of sets of images with these hashes, uint8 [N, 32] each; it appears whole."""
    views = next(iter(arrays.values())).shape[1]
    facts = {"labels": np.array(list(labels)), "views": np.array(views), "about": np.array(json.dumps(about))}
    facts |= {} if augment is None else {"augment": np.array(json.dumps(augment))}
    keys = {"sha256": np.concatenate(sets), "sets": np.array([len(each) for each in sets])}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **keys, **facts, **arrays)  # type: ignore[arg-type]
