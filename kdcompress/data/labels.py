"""Class names: whether those of a file and those of a data set are the same, and in which order."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdcompress.errors import UsageError, some

SHOWN, LONGEST = 8, 40  # names in a message, and characters of each


class Matched(NamedTuple):
    """``numbers`` int64 [K]: the source's number of each class of the file. ``note``: how they were matched, where
    that is not plain; None where both have the same names in the same order."""

    numbers: np.ndarray
    note: str | None = None

    @property
    def reordered(self) -> bool:
        return bool((self.numbers != np.arange(len(self.numbers))).any())


def match_labels(own: Sequence[str], theirs: Sequence[str], file: object, source: str) -> Matched:
    """The classes of ``file`` among those of ``source``, by their names (the Unicode form NFC of them).

    Where one of the two has plain numbers for names ("0", "1", ...), classes are matched by their numbers: of a
    source without names there may be fewer, for it knows no class that it has no image of.
    Raises UsageError, with both lists, where they are not the same names.
    """
    mine, others = [[unicodedata.normalize("NFC", name) for name in names] for names in (own, theirs)]
    same = np.arange(len(mine), dtype=np.int64)
    if mine == others:
        return Matched(same)
    if len(mine) == len(others) and sorted(mine) == sorted(others) and len(set(mine)) == len(mine):
        number = {name: index for index, name in enumerate(others)}
        note = f"{file} has the classes of {source} in another order: they are matched by name"
        return Matched(np.array([number[name] for name in mine], np.int64), note)
    unnamed = [names == [str(number) for number in range(len(names))] for names in (mine, others)]
    # a source that names none counts no further than its images do
    if any(unnamed) and (len(mine) == len(others) or unnamed[1] and len(others) < len(mine)):
        note = f"{file if unnamed[0] else source} does not name its classes: they are matched by number"
        return Matched(same, note)
    raise UsageError(
        f"The classes of {source} are not those of the file.",
        where=file,
        got=_listed(others, set(others) - set(mine)),
        allowed=_listed(mine, set(mine) - set(others)),
        hint="give the data that it was trained for, or name its classes as there",
    )


def _listed(names: Sequence[str], alone: set[str]) -> str:
    """The names, those that only this list has first said: never longer than a few lines."""
    only = [name for name in names if name in alone] if len(alone) < len(names) else []
    return f"{len(names):,} classes: {_some(names)}" + (f"; only here: {_some(only)}" if only else "")


def _some(names: Sequence[str]) -> str:
    return some([name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names], SHOWN)
