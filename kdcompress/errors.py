"""Errors meant for users: what went wrong, where, what was got, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable
from typing import Any

# Controls but tab and newline, marks of direction, separators of lines, and what is no character.
CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MOST_CHARACTERS, MOST_LINES = 1000, 20  # of a part of an error: together they are a screen at most


def shown(text: str) -> str:
    """``text`` as a terminal may have it: what would steer it, such as ESC, is an escape that can be read."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def cut(text: str, times: int = 1) -> str:
    """At most ``MOST_LINES`` lines and ``MOST_CHARACTERS`` characters, so many ``times``, and how much more there is."""
    most, characters, lines = times * MOST_LINES, times * MOST_CHARACTERS, text.split("\n")
    kept = "\n".join(lines[:most])
    if len(kept) > characters:
        return f"{kept[:characters]} ... and {len(text) - characters:,} more characters"
    return kept if len(lines) <= most else f"{kept}\n... and {len(lines) - most:,} more lines"


def ended(code: int) -> str:
    """How a process ended, by its return code: "exit status 1", "signal 11 (SIGSEGV)"."""
    if code >= 0:
        return f"exit status {code}"
    known = {each.value: f" ({each.name})" for each in signal.Signals}
    return f"signal {-code}{known.get(-code, '')}"


class KDCompressError(Exception):
    """A failure that the user can act on; the command line prints it without a traceback.

    ``what`` is one sentence; the other parts are printed below it, where given. Each is cut where it is long.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        allowed: object = None,
        hint: str | None = None,
    ):
        parts = {"where": where, "got": got, "allowed": allowed, "hint": hint}
        self.parts: dict[str, Any] = {name: cut(str(part)) for name, part in parts.items() if part is not None}
        # What is wrong may be a list of problems, each with what is allowed.
        self.what, self.got, self.hint = cut(what, 4), self.parts.get("got"), self.parts.get("hint")
        super().__init__(self.what)

    def __str__(self) -> str:
        titles = {"hint": "next"}
        # Lines that a part has itself are indented more: a file's name cannot look like a part of ours.
        parts = [f"  {titles.get(name, name)}: " + part.replace("\n", "\n    ") for name, part in self.parts.items()]
        return "\n".join([self.what, *parts])

    def at(self, where: object) -> KDCompressError:
        """The same, of what is in this file."""
        return type(self)(self.what, **{**self.parts, "where": where})

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.what, self.parts)


def _again(kind: type[KDCompressError], what: str, parts: dict[str, Any]) -> KDCompressError:
    """The error in another process."""
    return kind(what, **parts)


class GateError(KDCompressError):
    """The run finished, and what it made does not meet a limit the recipe sets."""


class UsageError(KDCompressError):
    """A recipe, an option or an input file that cannot be used as it is."""

    exit_code = 2


class RuntimeMissingError(KDCompressError):
    """A package or device that the request needs is not on this machine."""

    exit_code = 3


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: object = None) -> UsageError:
    """The error for a name that is in no registry, with the nearest known name as the next step."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return UsageError(
        f"There is no {kind} named {name!r}.",
        where=where,
        allowed=", ".join(known),
        hint=f"did you mean {near[0]!r}?" if near else None,
    )
