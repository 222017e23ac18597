"""The commands of ``agent.pyz``."""

from __future__ import annotations

import signal
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from kdcompress.bench.agent.supervisor import follow, receive, remove, start, supervise
from kdcompress.bench.agent.words import say


def main(arguments: list[str]) -> None:
    """Runs a command; a failure that has a reason is said, and the exit status is 1."""
    command, folder, *rest = arguments
    commands: dict[str, Callable[..., None]] = {
        "start": start,
        "receive": receive,
        "follow": follow,
        "remove": remove,
        "supervise": supervise,
        "measure": measure,
    }
    try:
        commands[command](Path(folder), *rest)
    except (OSError, tarfile.TarError) as error:
        say({"error": {"what": str(error)}})
        sys.exit(1)


def measure(folder: Path) -> None:
    """The process of the job, which SIGINT interrupts, whoever started it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from kdcompress.bench.agent import job

    job.measure(folder)
