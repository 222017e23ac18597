"""Images that have any number of labels each: root/labels.csv says which.

    file,labels,split                    file,split,sunny,people,dog
    a/1.jpg,sunny;people,train           a/1.jpg,train,1,1,0
    a/2.jpg,,test                        a/2.jpg,test,0,0,0

On the left the labels of an image are separated by semicolons; on the right each has a column of 0 and 1. The column
``split`` may be left out, and so may validation and test: they are cut from the training images.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kdcompress.data.decode import read_listed
from kdcompress.data.from_folder import SPLITS
from kdcompress.data.source import root_of, sources
from kdcompress.data.splits import Found, Listed, Raw
from kdcompress.errors import UsageError, some
from kdcompress.recipe import Data

TABLE = "labels.csv"
OWN = ("file", "labels", "split")  # columns that are no labels
Row = Mapping[str, str]


class ImageLabels:
    """Images are read as those of an image folder are, and resized to ``data.size`` where that is given."""

    resizes = True

    def find(self, data: Data) -> Found:
        table = root_of(data, f"the folder of the images and of {TABLE}") / TABLE
        if not table.is_file():
            raise UsageError(f"There is no {TABLE} in data.root.", where=table, allowed="file,labels[,split]")
        return Found(str(table.parent), True)

    def read(self, data: Data) -> Raw:
        return read_listed(self.listed(data), data.size, data.fit)

    def listed(self, data: Data) -> Listed:
        """Raises UsageError for a table that is not as it should be."""
        root = Path(self.find(data).origin)
        rows = _rows(root / TABLE)
        labels = _labels(root / TABLE, rows)
        truth = np.array([_truth(row, labels) for row in rows], np.uint8)
        splits = np.array([SPLITS[_split(row)] for row in rows])
        there = [split for split in ("train", "validation", "test") if (splits == split).any()]
        if "train" not in there:
            raise UsageError("The table has no training images.", where=root / TABLE, got=", ".join(there))
        placed = list(zip(rows, splits, strict=True))
        files = {split: [root / row["file"] for row, its in placed if its == split] for split in there}
        return Listed(labels, files, {split: truth[splits == split] for split in there}, str(root))


def _rows(table: Path) -> Sequence[Row]:
    """The table's rows, each held to it. Raises UsageError with the lines that are wrong."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames = [_column(name) for name in reader.fieldnames or ()]
            rows = [(reader.line_num, dict(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        hint = "save it as UTF-8, with commas between the columns"
        raise UsageError("The table of labels cannot be read.", where=table, got=error, hint=hint) from error
    more = set(columns) - set(OWN) if "labels" in columns else {""} & set(columns)
    if "file" not in columns or len(set(columns)) < len(columns) or len(columns) < 2 or more:
        raise UsageError(
            "The table's first line has to name its columns.",
            where=table,
            got=", ".join(columns) or "nothing",
            allowed="file,labels[,split], or file[,split] and one column per label, with commas between them",
        )
    wrong, seen = [], set[str]()
    for line, row in rows:
        if why := _wrong(row, seen, table.parent):
            wrong.append(f"line {line}: {why}")
        seen.add(row["file"] or "")
    if wrong or not rows:
        raise UsageError("The table of labels has mistakes.", where=table, got=some(wrong) or "no image")
    return [row for _, row in rows]


def _column(name: str) -> str:
    """Its own columns are known in any case, and with spaces around."""
    return name.strip().casefold() if name.strip().casefold() in OWN else unicodedata.normalize("NFC", name.strip())


def _wrong(row: Row, seen: set[str], root: Path) -> str | None:
    if None in row or None in row.values():
        return "not as many columns as in the first line"
    file = row["file"]
    if not file or Path(file).is_absolute() or ".." in Path(file).parts or Path(file).as_posix() != file:
        return f"file {file!r} is not a path below the table's folder, such as photos/1.jpg"
    if not (root / file).is_file():
        return f"the folder has no file {file!r}"
    if file in seen:
        return f"{file} is there twice"
    if _split(row) not in SPLITS:
        return f"split {row['split']!r} is not train, val or test"
    if "labels" not in row:
        for column, value in row.items():
            if column not in OWN and value not in ("0", "1"):
                return f"{value!r} in column {column} is not 0 or 1"
    return None


def _split(row: Row) -> str:
    return row.get("split", "train").strip().casefold()


def _labels(table: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    if "labels" not in rows[0]:
        found = [column for column in rows[0] if column not in OWN]
    else:
        found = sorted({label for row in rows for label in _named(row)})
    if len(found) < 2:
        raise UsageError(
            "The table has too few labels.", where=table, got=", ".join(found) or "none", allowed="2 or more"
        )
    return tuple(found)


def _named(row: Row) -> list[str]:
    return [unicodedata.normalize("NFC", label.strip()) for label in row["labels"].split(";") if label.strip()]


def _truth(row: Row, labels: Sequence[str]) -> list[int]:
    there = set(_named(row)) if "labels" in row else {label for label in labels if row[label] == "1"}
    return [int(label in there) for label in labels]


sources.register("image-labels")(ImageLabels())
