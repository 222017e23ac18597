"""A data set of the Hugging Face Hub, or a folder of one: a column of images, and one of labels or of objects.

The library ``datasets`` finds, downloads and keeps it. No code of a data set is run: only files of ``FORMATS`` are
read, none of which holds any. The images are decoded from the Arrow files that the library keeps.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kdcompress.data.annotated import read_annotated
from kdcompress.data.arrow_files import rows_of
from kdcompress.data.columns import (
    Labels,
    annotations_of,
    classes_of,
    has_objects,
    image_column,
    label_column,
    objects_column,
)
from kdcompress.data.decode import File, identity, read_images
from kdcompress.data.from_folder import SPLITS
from kdcompress.data.kept import chosen, remembered
from kdcompress.data.source import one_line, root_of, short, sources
from kdcompress.data.splits import SPLITS as ORDER
from kdcompress.data.splits import Found, Raw, Split
from kdcompress.errors import RuntimeMissingError, UsageError, some
from kdcompress.optional import require
from kdcompress.recipe import Data

EXTRA = "huggingface"
PAGE = "https://huggingface.co/datasets/"
FORMATS = ("arrow", "imagefolder", "parquet", "webdataset")  # of files, by the library's modules that read them
SAVED = ("dataset_dict.json", "state.json")  # one of them is in a folder of `save_to_disk`
HINT = "choose the rows with `datasets`, save them with `save_to_disk`, and give that folder as data.root"


class Loaded(NamedTuple):
    """``files``: the Arrow files of each split, and how many rows it has; ``features``: the library's, by column."""

    origin: str
    files: dict[str, list[Path]]
    counts: dict[str, int]
    features: Mapping[str, Any]
    places: tuple[Path, ...]  # below which images may have files of their own
    licence: str | None
    notes: list[str]


class Rows(NamedTuple):
    files: list[File]
    values: list[Any]


class HuggingFace:
    """``data.root`` is OWNER/NAME of a data set of the Hub; or a folder, of ``save_to_disk`` or of such files as a data
    set of the Hub has. ``data.hub`` chooses its configuration, revision and columns.

    Its splits are called as those of an image folder are; what is missing is cut from the training images. Classes are
    the names that the column has, else its values, sorted.
    """

    resizes = True

    def find(self, data: Data) -> Found:
        root = root_of(data, "OWNER/NAME of a data set of the Hub, or a folder")
        return Found(str(root), True) if root.is_dir() else Found(PAGE + hub_name(root), False)

    def read(self, data: Data) -> Raw:
        """Its objects, or its labels where it has none."""
        found = loaded(data)
        if not data.hub.label and has_objects(found.features):
            return self._of_objects(found, data)
        return self._of_labels(found, data, label_column(found.features, data.hub, found.origin))

    def read_labels(self, data: Data) -> Raw:
        found = loaded(data)
        return self._of_labels(found, data, label_column(found.features, data.hub, found.origin))

    def read_objects(self, data: Data) -> Raw:
        return self._of_objects(loaded(data), data)

    def _of_labels(self, found: Loaded, data: Data, column: Labels) -> Raw:
        rows = rows_by_split(found, image_column(found.features, data.hub, found.origin), column.name)
        labels, truth, notes = classes_of({split: its.values for split, its in rows.items()}, column, found.origin)
        files = [file for split in truth for file in rows[split].files]
        with told_of(found.origin):
            images = read_images(files, data.size, base_of(found), data.fit or "crop")
        splits: dict[str, Split] = {}
        for split, numbers in truth.items():
            start = sum(map(len, splits.values()))
            splits[split] = Split(chosen(images, slice(start, start + len(numbers))), numbers)
        made = (splits["train"], splits.get("validation"), splits.get("test"))
        return Raw(labels, *made, found.origin, found.licence, [*found.notes, *notes], files)

    def _of_objects(self, found: Loaded, data: Data) -> Raw:
        column = objects_column(found.features, data.hub, found.origin)
        rows = rows_by_split(found, image_column(found.features, data.hub, found.origin), column.name)
        files = {str(file): file for its in rows.values() for file in its.files}
        values = {split: list(zip(map(str, its.files), its.values)) for split, its in rows.items()}
        with told_of(found.origin):
            raw = read_annotated(annotations_of(values, column), data, base_of(found), HINT, files)
        raw.origin, raw.licence, raw.notes = found.origin, found.licence, [*found.notes, *raw.notes]
        return raw


def hub_name(root: Path) -> str:
    """Raises UsageError where it is no name of a data set."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = root.as_posix()
    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError("no OWNER/ before the name")
    except HFValidationError as error:
        got = f"{short(name)}: {one_line(error)}"
        allowed = "a folder that is there, or OWNER/NAME of a data set of the Hub"
        raise UsageError(
            "data.root is neither a folder nor a data set's name.", where="data.root", got=got, allowed=allowed
        ) from error
    return name


def library() -> Any:
    found = require("datasets", EXTRA, "The source huggingface")
    if not hasattr(found, "load_from_disk"):  # a folder of this name, such as the usual one of the data
        raise RuntimeMissingError(
            "The source huggingface needs the package 'datasets'.",
            got="a folder of this name",
            hint=f"pip install 'kdcompress[{EXTRA}]'",
        )
    if "HF_UPDATE_DOWNLOAD_COUNTS" not in os.environ:  # nobody is told what is loaded
        found.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if not sys.stderr.isatty():
        found.disable_progress_bars()
    return found


def loaded(data: Data) -> Loaded:
    """The data set, downloaded where the library has not kept it. Raises UsageError where it cannot be had."""
    datasets, found = library(), HuggingFace().find(data)
    root, hub = Path(found.origin), data.hub
    if found.ready and hub.revision:
        raise UsageError("A folder has no revisions.", where=f"{root}: data.hub.revision", got=hub.revision)
    try:
        if found.ready and any((root / name).is_file() for name in SAVED):
            if hub.config:
                what = "A folder of `save_to_disk` has one configuration."
                raise UsageError(what, where=f"{root}: data.hub.config", got=hub.config)
            whole, origin = datasets.load_from_disk(str(root), keep_in_memory=False), str(root)
            splits = whole if isinstance(whole, dict) else {"train": whole}
        else:
            place = str(root.resolve()) if found.ready else found.origin.removeprefix(PAGE)
            builder = datasets.load_dataset_builder(place, name=hub.config, revision=hub.revision)
            check_format(builder, found.origin)
            builder.download_and_prepare()
            splits = builder.as_dataset(in_memory=False)
            commit = "" if found.ready or not builder.hash else f", revision {builder.hash}"
            origin = f"{found.origin}{commit}"
    except UsageError:
        raise
    except Exception as error:  # of the network, the Hub, the disk and the files: of many kinds
        raise unavailable(found, error) from error
    named, notes = by_split(list(splits), found.origin)
    first = splits[named["train"]]
    own = [root.absolute(), root.resolve()] if found.ready else []
    files = {split: arrow_files(splits[name], name, found.origin) for split, name in named.items()}
    counts = {split: len(splits[name]) for split, name in named.items()}
    places = (*own, *library_places(datasets))
    return Loaded(origin, files, counts, first.features, places, first.info.license or None, notes)


def library_places(datasets: Any) -> list[Path]:
    """Where the library keeps what it downloads and unpacks."""
    from huggingface_hub import constants

    names = ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH")
    return [Path(place).absolute() for place in (*(getattr(datasets.config, n) for n in names), constants.HF_HUB_CACHE)]


def check_format(builder: Any, origin: str) -> None:
    """Raises UsageError for files of a kind that is not of ``FORMATS``."""
    kinds = {part.__module__.rpartition(".")[2] for part in type(builder).__mro__}
    if kinds.isdisjoint(FORMATS):
        got = type(builder).__module__.rpartition(".")[2]
        raise UsageError("The data set has no images that are read.", where=origin, got=got, allowed=", ".join(FORMATS))


def unavailable(found: Found, error: Exception) -> UsageError:
    """Of whatever the library raises: a data set that is not there, private, gated or cannot be read."""
    said = one_line(error)
    if found.ready:
        hint = "give a folder of `save_to_disk`, or of parquet files or images, as data sets of the Hub are"
    elif any(word in said for word in ("gated", "exist", "authenticated", "401", "403")):
        hint = "look for its name at the Hub; for a private or gated one, `hf auth login` or set HF_TOKEN"
    elif "onfig" in said:
        hint = "name its configuration: data.hub.config"
    else:
        hint = "run it once where the network is reachable (the library keeps what it downloads)"
    got = f"{type(error).__name__}: {said[:600]}"
    return UsageError("The data set cannot be had.", where=found.origin, got=got, hint=hint)


def by_split(names: list[str], origin: str) -> tuple[dict[str, str], list[str]]:
    """What each split is called there, and what should be known of that. Raises UsageError without training images."""
    found: dict[str, str] = {}
    for name in names:
        if split := SPLITS.get(name.casefold()):
            if split in found:
                got = f"{found[split]}, {name}"
                raise UsageError(f"There are two splits for {split}.", where=origin, got=got, hint=HINT)
            found[split] = name
    if len(names) == 1 and not found:
        found = {"train": names[0]}
    if "train" not in found:
        raise UsageError("The data set has no training split.", where=origin, got=some(names) or "no split", hint=HINT)
    left = [name for name in names if name not in found.values()]
    notes = [f"passed over of {origin}: the splits {', '.join(left)}"] if left else []
    return {split: found[split] for split in ORDER if split in found}, notes


def arrow_files(split: Any, name: str, origin: str) -> list[Path]:
    files = [Path(entry["filename"]) for entry in split.cache_files]
    if not files:
        raise UsageError(f"The split {name} is empty.", where=origin, hint=HINT)
    return files


def rows_by_split(found: Loaded, image: str, column: str) -> dict[str, Rows]:
    """The images of each split, and the values of a column. Raises UsageError for rows without an image, and for images
    elsewhere than in the data set."""
    return {split: _rows(found, split, files, image, column) for split, files in found.files.items()}


def _rows(found: Loaded, split: str, files: list[Path], image: str, column: str) -> Rows:
    key = identity([File(file) for file in files], ("rows", 1, image, column), base_of(found))
    each = remembered(key, lambda: [rows_of(file, image, [column], EXTRA) for file in files])
    rows = [(file, *row) for file, its in zip(files, each, strict=True) for row in its]
    if len(rows) != found.counts[split]:
        got = f"{found.counts[split]:,} rows of {len(rows):,}"
        raise UsageError(f"The {split} split is a choice of its files' rows.", where=found.origin, got=got, hint=HINT)
    missing = [f"{split}[{k}]" for k, (_, path, _, size, _) in enumerate(rows) if not path and size < 0]
    if missing:
        raise UsageError("Rows have no image.", where=found.origin, got=some(missing), hint=HINT)
    outside = [path for _, path, *_ in rows if path and not _inside(Path(path), found.places)]
    if outside:
        got = some([short(path) for path in outside], 3)
        raise UsageError("Images lie outside of the data set.", where=found.origin, got=got, hint=HINT)
    images = [
        File(Path(path)) if path else File(file, f"{split}[{k}]", offset, size)
        for k, (file, path, offset, size, _) in enumerate(rows)
    ]
    return Rows(images, [value for *_, value in rows])


def base_of(found: Loaded) -> Path:
    return found.files["train"][0].parent


@contextmanager
def told_of(origin: str) -> Iterator[None]:
    """Errors name the data set, not the library's files of it."""
    try:
        yield
    except UsageError as error:
        raise error.at(origin) from error


def _inside(path: Path, places: tuple[Path, ...]) -> bool:
    return ".." not in path.parts and any(path.is_relative_to(place) for place in places)


sources.register("huggingface")(HuggingFace())
