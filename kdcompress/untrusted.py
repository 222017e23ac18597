"""What somebody else may have made, files and messages: nothing that they say is believed before it is checked."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from kdcompress.errors import KDCompressError, UsageError

MOST_BYTES = 64 << 20  # of a JSON document: reading it takes some 20 times as much memory
MOST_DEPTH = 64
MOST_CLASSES = 1_000_000
MOST_PIXELS = 1 << 28  # values of an image: height x width x channels
MOST_OUTPUTS = 64  # of a model
MOST_TEXT = 1000  # characters of a name or a label
# What Python raises where a value is not what it is taken for.
WRONG = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


def existing(path: Path) -> Path:
    """The path of a file, or of a folder of files and folders.

    Raises UsageError where there is none, or a device, a pipe or a socket, which could be read for ever.
    """
    if not path.exists():
        raise UsageError("There is no such file.", where=path)
    for part in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if not (part.is_file() or part.is_dir()):
            raise UsageError("This is not a regular file.", where=part)
    return path


@contextmanager
def what_it_says(path: Path, what: str, hint: str | None = None) -> Iterator[None]:
    """What goes wrong in using the content of the file at ``path`` is a UsageError that says ``what``."""
    try:
        yield
    except WRONG as error:
        raise UsageError(what, where=path, got=f"{type(error).__name__}: {error}", hint=hint) from error


def read_json(path: Path, what: str, hint: str | None = None) -> Any:
    """The document in a JSON file. Raises UsageError, which begins with ``what``, where there is none, it is not valid
    (numbers that are not finite and keys that come twice are not), nested too deeply or too large."""
    try:
        if not path.is_file():
            raise UsageError(
                what, where=path, got="no such file" if not path.exists() else "no regular file", hint=hint
            )
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UsageError(what, where=path, got=f"{size:,} bytes", allowed=f"at most {MOST_BYTES:,}", hint=hint)
        return parse_json(path.read_bytes())
    except KDCompressError:
        raise
    except OSError as error:
        raise UsageError(what, where=path, got=error.strerror, hint=hint) from error
    except ValueError as error:
        raise UsageError(what, where=path, got=error, hint=hint) from error


def parse_json(written: bytes | str) -> Any:
    """As ``read_json``, of text in UTF-8. Raises ValueError."""
    try:
        written = written if isinstance(written, str) else written.decode()
        document = json.loads(written, object_pairs_hook=_once, parse_float=_real, parse_constant=_real)
    except RecursionError as error:
        raise ValueError("not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    level = [document]
    for _ in range(MOST_DEPTH):
        level = [part for each in level for part in _parts(each)]
    if level:
        raise ValueError(f"nested more than {MOST_DEPTH} deep")
    return document


def _parts(value: Any) -> list[Any]:
    """The lists and objects in a list or an object."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in inside if isinstance(part, (dict, list))]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:i]))
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _real(written: str) -> float:
    if not math.isfinite(value := float(written)):
        raise ValueError(f"{written:.20} is not a number in JSON")
    return value


Rules = Mapping[str, Callable[[Any], bool]]


def checked(data: Any, rules: Rules, what: str, optional: Rules | None = None) -> dict[str, Any]:
    """``data``, once every key has what its rule asks and there is no other. Raises UsageError, which begins with
    ``what`` and names all that is wrong."""
    if not isinstance(data, dict):
        raise UsageError(what, got=reprlib.repr(data), allowed="an object")
    known = {**rules, **(optional or {})}
    wrong = [f"{name}: {reprlib.repr(data[name])}" for name in data if name in known and not known[name](data[name])]
    wrong += [f"{name} is missing" for name in rules if name not in data]
    wrong += [f"{name!r} is not known" for name in data if name not in known]
    if wrong:
        raise UsageError(what, got="\n".join(wrong))
    return data


def plain(text: object, most: int = 200) -> str:
    """What somebody else sent, as it may be shown and written: of so many characters, none of which controls."""
    given = text if isinstance(text, str) else "no reason given"
    return "".join(c if c.isprintable() else "\ufffd" for c in given[:most])


def plain_name(name: Any) -> bool:
    """Whether this is the name of a file in a folder, and of none elsewhere."""
    return inside(name) and "/" not in name and "\\" not in name


def inside(path: Any) -> bool:
    """Whether this relative path leads nowhere but into its folder, on any system."""
    if not isinstance(path, str) or not path or "\0" in path or len(path) > 4096:
        return False
    return all(
        not kind(path).is_absolute() and not kind(path).drive and not kind(path).root and ".." not in kind(path).parts
        for kind in (PurePosixPath, PureWindowsPath)
    ) and path not in (".", "./")


def whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT


def finite(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e30 and math.isfinite(value)
    )
