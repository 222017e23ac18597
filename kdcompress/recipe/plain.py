"""Values as a YAML file may hold them: those that no key of a recipe takes are found, and any are shown in short."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import PurePath
from typing import Any

from kdcompress.strict_yaml import DEEPEST

LONGEST = 1_000  # characters of a text
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
SURROGATE = re.compile("[\ud800-\udfff]")  # a path may have them: bytes that are no UTF-8
SHOWN = 20  # problems of one recipe


class _Unusable:
    """Stands where no key of a recipe takes what stood there: no type takes it either."""

    def __repr__(self) -> str:
        return "..."


def plain(value: Any, unusable: dict[tuple[str, ...], str], loc: tuple[str, ...] = ()) -> Any:
    """``value`` without what no key of a recipe takes, wherever it stands; its place and why are added to ``unusable``.
    What is left is plain text, numbers and such, which JSON and YAML give back as they were."""
    why = ""
    if isinstance(value, (dict, list, tuple)) and len(loc) >= DEEPEST:
        why = f"there are more than {DEEPEST} mappings and lists in each other"
    elif isinstance(value, dict):
        known = {}
        for key, item in value.items():
            if not isinstance(key, str) or plain(key, {}) != key:
                what = "a key is a short text, without control characters; numbers stand in quotes"
                unusable[(*loc, shown(key))] = what
            else:
                known[key] = plain(item, unusable, (*loc, key))
        return known
    elif isinstance(value, (list, tuple)):
        return type(value)(plain(item, unusable, (*loc, str(index))) for index, item in enumerate(value))
    elif isinstance(value, (str, PurePath)):
        text = str(value)
        if len(text) > LONGEST:
            why = f"a text of {len(text):,} characters; {LONGEST:,} are allowed"
        elif CONTROL.search(text) or (isinstance(value, str) and SURROGATE.search(text)):
            why = f"control characters and halves of characters are not allowed (got {shown(text)})"
    elif isinstance(value, (int, float)):
        if not abs(value) < 2**63:  # so that nan is out too
            why = f"a finite number of 64 bits is wanted (got {shown(value)})"
    elif value is not None:
        why = f"text, a number, true, false, a list or a mapping is wanted (got {shown(value)})"
    if why:
        unusable[loc] = why
        return _Unusable()
    return value


def listed(problems: Sequence[str]) -> str:
    """One a line, as many and as long as a screen takes."""
    lines = [f"  - {problem:.400}" for problem in problems[:SHOWN]]
    return "\n".join(lines + ["  - ..."] * (len(problems) > SHOWN))


def shown(value: Any) -> str:
    """Short, whatever it is."""
    if isinstance(value, (str, list, tuple)):
        value = value[:80]
    elif isinstance(value, dict):
        value = dict(islice(value.items(), 80))
    elif not isinstance(value, (bool, int, float, PurePath, type(None))):
        return f"a {type(value).__name__}"  # whose text may be anything, with its address in it
    try:
        return f"{value!r:.80}"
    except (RecursionError, ValueError):  # very deep, or a number of too many digits
        return f"a {type(value).__name__} that is too large to show"
