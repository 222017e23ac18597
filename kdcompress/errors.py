"""Errors meant for users: what went wrong, where, what was got, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class KDCompressError(Exception):
    """A failure that the user can act on; the command line prints it without a traceback.

    ``what`` is one sentence; the other parts are printed below it, one a line, where given.
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
        parts = {"where": where, "got": got, "allowed": allowed, "next": hint}
        lines = [what, *(f"  {name}: {part}" for name, part in parts.items() if part is not None)]
        super().__init__(without_addresses("\n".join(lines)))
        self.what, self.got, self.hint = what, got, hint


def without_addresses(text: str) -> str:
    """``<_io.BytesIO object at 0x7f...>`` as ``<_io.BytesIO object>``: the same message in each run."""
    return re.sub(r" at 0x[0-9a-fA-F]{6,}(?=>)", "", text)


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


@contextmanager
def told(what: str, *, where: object = None, allowed: object = None, hint: str | None = None) -> Iterator[None]:
    """Whatever code that is not kdcompress's raises, or its call of sys.exit, as a UsageError; ``where`` is for what
    comes from no file of the user's own."""
    try:
        yield
    except KDCompressError:
        raise
    except (Exception, SystemExit) as error:
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
