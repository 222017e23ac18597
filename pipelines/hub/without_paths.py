"""A report for everybody: what it says of places on its maker's machines is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from kdcompress.recipe.training import REST

KEYS = ("root", "unlabelled", "weights", "file", "answers", "origin", "folder")  # whose values are paths
NAME = r"[^\s/\\'\"`,;:()\[\]{}<>|*?=]+"
PATH = re.compile(rf"(?<![\w./~-])(?!//)~?(?:/{NAME})+/?|(?<![A-Za-z])[A-Za-z]:(?:[\\/]{NAME})+|(?<![\w.])~/?(?!\w)")


def without_paths(document: Mapping[str, Any], hub_data: bool = False) -> dict[str, Any]:
    """The document with the last part of each path alone, and of a device only its kind, in every text. ``hub_data``:
    ``data.root`` is a name at the Hub, and stays."""
    words = dict(_places(document, hub_data)) | dict(_devices(document))
    longest_first = sorted(words, key=len, reverse=True)

    def plain(text: str) -> str:
        for word in longest_first:
            text = text.replace(word, words[word])
        return PATH.sub(lambda found: last(found[0]), text)

    made: dict[str, Any] = _in_texts(document, plain)
    return made


def last(path: str) -> str:
    """Its last part, on any system; "." where it has none."""
    kind = PureWindowsPath if re.match(r"[A-Za-z]:|\\", path) else PurePosixPath
    return kind(path).name.strip("~.") or "."


def _places(document: Mapping[str, Any], hub_data: bool) -> Iterator[tuple[str, str]]:
    """What stands for a path in the recipe, and what is to stand there: also relative ones say how a machine is."""
    kept = (REST, document["recipe"]["data"].get("root") if hub_data else None)
    for key, text in _texts({"recipe": document["recipe"], "data": document.get("data")}):
        if key in KEYS and ("/" in text or "\\" in text) and "://" not in text and text not in kept:
            yield text, last(text)


def _devices(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """ssh:user@host, adb:SERIAL."""
    names = (document.get("device") or {}).get("name"), (document["recipe"].get("bench") or {}).get("device")
    for name in filter(None, names):
        if ":" in name:
            yield name, name.partition(":")[0]


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text, with the nearest key above it."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part, str(name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str):
        yield key, value


def _in_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_texts(part, change) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_in_texts(part, change) for part in value]
    return change(value) if isinstance(value, str) else value
