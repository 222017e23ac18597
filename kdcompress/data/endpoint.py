"""What an endpoint said of images, as tables: .csv and .jsonl files, one or a folder of them.

path,cat,dog                                                   .csv: a probability of each class
a/1.jpg,0.9,0.1

{"path": "a/1.jpg", "probabilities": {"cat": 0.9}}             .jsonl: of some; the others share what is left
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdcompress.errors import UsageError, some
from kdcompress.untrusted import existing, finite, parse_json, text

SUFFIXES = (".csv", ".jsonl")
LONGEST = 1 << 24  # characters of a line
SUM = 0.02  # by which a sum of probabilities may miss 1
WHAT = "A line of these answers cannot be read."
Line = tuple[str, str, dict[str, Any]]  # where it is, a path, probabilities by name


def files_of(path: Path) -> list[Path]:
    """Raises UsageError where there is none."""
    found = sorted(each for each in existing(path).rglob("*") if each.suffix.lower() in SUFFIXES)
    if path.is_dir() and not found:
        raise UsageError("The folder has no answers.", where=path, allowed=f"files of {' or '.join(SUFFIXES)}")
    return found if path.is_dir() else [path]


def read_tables(path: Path, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """``paths`` text [N] and ``probabilities`` float32 [N, K] of a source's K ``labels``, in their order.

    Raises UsageError for a line that is none, classes that are not the source's, and a path that comes twice.
    """
    number = {label: place for place, label in enumerate(labels)}
    rows: list[np.ndarray] = []
    places: dict[str, str] = {}
    for where, name, given in (line for file in files_of(path) for line in _lines(file)):
        if unknown := [label for label in given if label not in number]:
            raise UsageError(WHAT, where=where, got=f"classes {some(unknown)}", allowed=some(list(labels), 20))
        if name in places:
            raise UsageError("An image has two answers.", where=where, got=f"{name}, as at {places[name]}")
        places[name] = where
        rows.append(_row(where, given, number))
    if not rows:
        raise UsageError("There are no answers in it.", where=path)
    return {"paths": np.array(list(places)), "probabilities": np.stack(rows)}


def _row(where: str, given: dict[str, Any], number: dict[str, int]) -> np.ndarray:
    values = list(given.values())
    if not all(finite(value) and 0 <= value <= 1 + SUM for value in values):
        raise UsageError(WHAT, where=where, got=some([f"{k}: {v}" for k, v in given.items()]), allowed="0 to 1 each")
    total, others = sum(values), len(number) - len(given)
    if total > 1 + SUM or (not others and total < 1 - SUM):
        raise UsageError(WHAT, where=where, got=f"probabilities that add up to {total:g}", allowed="1")
    row = np.full(len(number), max(0.0, 1 - total) / others if others else 0.0)
    row[[number[label] for label in given]] = values
    return (row / row.sum()).astype(np.float32)


def _lines(path: Path) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (_of_csv if path.suffix.lower() == ".csv" else _of_json)(path, file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError("The answers cannot be read.", where=path, got=error) from error


def _limited(path: Path, file: IO[str]) -> Iterator[str]:
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise UsageError(WHAT, where=path, got=f"a line of more than {LONGEST:,} characters")
        yield line


def _of_csv(path: Path, file: IO[str]) -> Iterator[Line]:
    table = csv.reader(_limited(path, file), strict=True)
    head = next(table, [])
    if head[:1] != ["path"] or len(head) < 3 or len(set(head)) < len(head):
        raise UsageError(WHAT, where=f"{path}, line 1", got=",".join(head[:8]), allowed="path, then each class once")
    for row in filter(None, table):
        where = f"{path}, line {table.line_num}"
        if len(row) != len(head):
            raise UsageError(WHAT, where=where, got=f"{len(row)} values", allowed=len(head))
        try:
            yield where, row[0], dict(zip(head[1:], map(float, row[1:])))
        except ValueError as error:
            raise UsageError(WHAT, where=where, got=error) from error


def _of_json(path: Path, file: IO[str]) -> Iterator[Line]:
    for count, line in enumerate(_limited(path, file), 1):
        where = f"{path}, line {count}"
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise UsageError(WHAT, where=where, got=error) from error
        name, given = (found.get("path"), found.get("probabilities")) if isinstance(found, dict) else (None, None)
        if not isinstance(name, str) or not text(name) or not isinstance(given, dict):
            raise UsageError(
                WHAT, where=where, got=line.strip()[:200], allowed='{"path": PATH, "probabilities": {NAME: 0.9}}'
            )
        yield where, name, given
