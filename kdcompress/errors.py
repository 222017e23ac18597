"""Errors meant for users: what went wrong, where, what was got, what is allowed, what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


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
