"""Errors meant for users: what went wrong, where, what was got, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import re
import signal
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Controls but tab and newline, marks of direction, separators of lines, and what is no character.
CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MOST_CHARACTERS, MOST_LINES = 1000, 20  # of a part of an error: together they are a screen at most


def shown(text: str) -> str:
    """``text`` as a terminal may have it: what would steer it, such as ESC, is an escape that can be read."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def cut(text: str, times: int = 1) -> str:
    """At most ``MOST_LINES`` lines and ``MOST_CHARACTERS`` characters, so many times, and how much more there is."""
    most, characters, lines = times * MOST_LINES, times * MOST_CHARACTERS, text.split("\n")
    kept = "\n".join(lines[:most])
    if len(kept) > characters:
        return f"{kept[:characters]} ... and {len(text) - characters:,} more characters"
    return kept if len(lines) <= most else f"{kept}\n... and {len(lines) - most:,} more lines"


def some(names: Sequence[str], most: int = 5) -> str:
    """ "a, b and 7 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


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
        self.parts: dict[str, Any] = {
            name: cut(without_addresses(str(part))) for name, part in parts.items() if part is not None
        }
        # What is wrong may be a list of problems, each with what is allowed.
        self.what, self.got, self.hint = cut(without_addresses(what), 4), self.parts.get("got"), self.parts.get("hint")
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


def without_addresses(text: str) -> str:
    """``<_io.BytesIO object at 0x7f...>`` as ``<_io.BytesIO object>``: the same message in each run."""
    return re.sub(r" at 0x[0-9a-fA-F]{6,}(?=>)", "", text)


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


@contextmanager
def told(what: str, *, where: object = None, allowed: object = None, hint: str | None = None) -> Iterator[None]:
    """Whatever code that is not kdcompress's raises, or its call of sys.exit, as a UsageError; ``where`` is for what
    comes from no file of the user's own."""
    try:
        yield
    except (KDCompressError, KeyboardInterrupt):
        raise
    except BaseException as error:  # some libraries' own errors are no Exception
        where = place(error) or where
        raise UsageError(what, where=where, got=cause(error), allowed=allowed, hint=hint) from error


def first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def cause(error: BaseException) -> str:
    """The message of the first error in the chain, a few lines of it."""
    error = first_cause(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: " + " | ".join(lines[:3])[:400]


def place(error: BaseException) -> str | None:
    """File, line and function of the user's own code in which the error arose; None where only libraries had a part."""
    if error.__cause__ is not None and (found := place(error.__cause__)):
        return found
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _in_a_library(frame.filename)]
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else None


def _in_a_library(file: str) -> bool:
    path = Path(file)
    libraries = (Path(__file__).parent, sysconfig.get_path("stdlib"))
    installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return file.startswith("<") or installed or any(path.is_relative_to(folder) for folder in libraries)


def reason(error: Exception) -> tuple[str, str | None]:
    """Why something failed, and what to do next."""
    if not isinstance(error, KDCompressError):
        return cut(f"{type(error).__name__}: {error}"), None
    return error.what + (f" ({error.got})" if error.got is not None else ""), error.hint
