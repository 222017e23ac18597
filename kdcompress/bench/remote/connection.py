"""What a connection to another machine is, and what may stand behind its address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from kdcompress.errors import KDCompressError, UsageError


@dataclass(frozen=True)
class Options:
    """What may stand behind a device's address, as ``?python=/opt/venv/bin/python&limit=3600``."""

    python: str = "python3"
    folder: str = ""  # where the agent's own folder is made; "": the system's for temporary files
    away: float = 120.0  # seconds without a connection, after which both sides give up
    limit: float | None = None  # seconds that the measurement may take; None: many times what it should


class Connection(Protocol):
    @property
    def options(self) -> Options: ...

    @property
    def name(self) -> str:
        """For the reader, such as ssh:user@host."""
        ...

    def command(self, script: str) -> list[str]:
        """The command that runs a POSIX shell's script there, with this side's standard streams and exit status."""
        ...

    def failure(self, status: int, words: str) -> KDCompressError | None:
        """Why a command could not be run there, by its exit status and what it said on standard error; None where it
        was run, and failed."""
        ...


def parse_options(address: str, device: str) -> tuple[str, Options]:
    """The address without its options, and these. Raises UsageError for an unknown one."""
    plain, _, query = address.partition("?")
    given: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    known = tuple(Options.__dataclass_fields__)
    for key in given:
        if key not in known:
            raise UsageError(
                f"The device {device} has no such option.", where="--device", got=key, allowed=", ".join(known)
            )
    for key in given.keys() & {"away", "limit"}:
        try:
            seconds = float(given[key])
        except ValueError:
            seconds = 0.0
        if not seconds > 0:
            raise UsageError("This option takes a number of seconds.", where=f"--device, {key}", got=given[key])
        given[key] = seconds
    return plain, Options(**given)
