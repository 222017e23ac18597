"""The conversation with the agent: it is sent and started, gets its job, tells how far it is, and is removed."""

from __future__ import annotations

import io
import json
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any

from kdcompress.bench import timing
from kdcompress.bench.agent.supervisor import REMOVED
from kdcompress.bench.agent.words import MARK
from kdcompress.bench.devices import Request, Session
from kdcompress.bench.machine import MIB
from kdcompress.bench.remote.answer import session, suited
from kdcompress.bench.remote.commands import COMMAND_S, SILENCE_S, SPARE_BYTES, asked, full, lines, run
from kdcompress.bench.remote.connection import Connection
from kdcompress.bench.remote.messages import Answer, Facts, checked
from kdcompress.bench.remote.sent import write_agent, write_job
from kdcompress.bench.timing import Progress
from kdcompress.errors import KDCompressError, RuntimeMissingError
from kdcompress.untrusted import plain

PYTHON = (3, 10)  # at least, there
SPARE_S = 60.0  # beyond the limit, for the agent to end in order


def bench(connection: Connection, request: Request, progress: Progress) -> Session:
    """Measures on the machine at the other end. Raises UsageError or RuntimeMissingError before anything long starts,
    KDCompressError where the connection is lost for good or measuring fails there as a whole."""
    timing.check(list(request.artifacts), request.images, request.effort, request.scenario, request.baseline)
    progress(0.0, f"connecting to {connection.name}")
    folder = None
    try:
        facts = _start(connection, sorted({a.format for a in request.artifacts.values()}), request.open)
        folder = facts["folder"]
        request, left_out = suited(request, connection.name, facts)
        with tempfile.TemporaryFile() as job:
            limit_s = connection.options.limit or _limit_s(request)
            write_job(job, request, limit_s=limit_s)
            size = job.seek(0, io.SEEK_END)
            if size + SPARE_BYTES > facts["free_bytes"]:
                raise full(connection, f"{facts['free_bytes'] / MIB:.1f} MiB free", size)
            job.seek(0)
            progress(0.0, f"sending {size / MIB:.1f} MiB to {connection.name}")
            run(connection, _agent(connection, "receive", folder), "received", job, COMMAND_S + size / 2e4)
        answer = _follow(connection, folder, progress, limit_s)
    except BaseException:
        if folder:
            _remove(connection, folder)
        raise
    left = _remove(connection, folder)
    return session(answer, request, connection.name, left_out, [left] if left else [])


def probe(connection: Connection, formats: Sequence[str], opener: Callable[..., Any]) -> dict[str, Any]:
    """What the machine at the other end is, and what keeps it from running these formats: as ``devices`` has it.
    Raises RuntimeMissingError where it cannot be reached or has no Python."""
    facts = _start(connection, formats, opener)
    _remove(connection, facts["folder"])
    return facts


def _start(connection: Connection, formats: Sequence[str], opener: Callable[..., Any]) -> dict[str, Any]:
    """Sends the agent and starts it; what it says about that machine. Nothing is left there where it fails."""
    options = connection.options
    wanted = {"away_s": options.away, "formats": formats, "runners": opener.__module__}
    where = shlex.quote(options.folder) if options.folder else "${TMPDIR:-/tmp}"
    script = f"""
p={shlex.quote(options.python)}
command -v "$p" >/dev/null 2>&1 || {{ echo '{MARK}{{"python": null}}'; exit 3; }}
"$p" -c 'import sys; sys.exit(sys.version_info < {PYTHON})' ||
    {{ v=$("$p" -V 2>&1) && echo '{MARK}{{"python": "'"$v"'"}}'; exit 3; }}
umask 077
d=$(mktemp -d {where}/kdcompress-XXXXXX) && d=$(cd "$d" && pwd) || exit 4
cat >"$d/agent.pyz" && "$p" "$d/agent.pyz" start "$d" {shlex.quote(json.dumps(wanted))} && exit 0
rm -rf "$d"
exit 5
"""
    with tempfile.TemporaryFile() as file:
        write_agent(file, opener)
        file.seek(0)
        said, failure = asked(connection, script, file, COMMAND_S)
    for message in said:
        if "folder" in message:
            checked(Facts, message, connection.name)
            return message
        if "python" in message:
            raise RuntimeMissingError(
                f"There is no Python that can measure on {connection.name}.",
                got=message["python"] or f"no {options.python}",
                allowed=f"Python {'.'.join(map(str, PYTHON))} or later, with NumPy and the runtime",
                hint="install it there, or name one: --device '...?python=/path/to/python'",
            )
    raise failure or KDCompressError("The agent did not answer.", where=connection.name)


def _follow(connection: Connection, folder: str, progress: Progress, limit_s: float) -> dict[str, Any]:
    """The result, once it is there. A dropped connection is made again for as long as the agent waits for it; Ctrl-C
    ends the measurement there and still brings back what was measured. The agent ends within ``limit_s``: what goes on
    for longer, with a connection that is always made again, is no agent."""
    share, lost, stopped = 0.0, None, None
    ends = time.monotonic() + limit_s + connection.options.away + SPARE_S
    place, follow = shlex.quote(folder), _agent(connection, "follow", folder)
    follow = f"if [ -d {place} ]; then {follow}; else {_said('gone', REMOVED)}; fi"
    while True:
        failure = None
        try:
            with closing(lines(connection, follow)) as messages:
                for message in messages:
                    if isinstance(message, KDCompressError):
                        failure = message
                        break
                    lost = None
                    if "result" in message:
                        result: dict[str, Any] = message["result"]
                        if checked(Answer, result, connection.name).error and stopped is not None:
                            raise KeyboardInterrupt
                        return result
                    if "gone" in message:
                        raise KDCompressError(
                            "The measurement on the device has ended without a result.",
                            where=connection.name,
                            got=plain(message["gone"], 1000),
                            hint="was that machine restarted, or short of memory? Measure again",
                        )
                    if isinstance(found := message.get("share"), int | float) and 0 <= found <= 1:
                        share = float(found)
                        progress(share, plain(message.get("what")))
                    if stopped is not None and time.monotonic() - stopped > 2 * SILENCE_S:
                        raise KeyboardInterrupt
            now = time.monotonic()
            if now > ends:
                raise KDCompressError("The measurement on the device does not end.", where=connection.name)
            lost = lost if lost is not None else now
            if now - lost > connection.options.away:
                raise KDCompressError(
                    "The connection to the device is lost.",
                    where=connection.name,
                    got=f"{failure.what if failure else 'no answer'} for {now - lost:.0f} s",
                    hint=f"the agent there ends by itself after {connection.options.away:.0f} s and removes {folder}",
                )
            progress(share, f"the connection to {connection.name} is lost: trying again")
            time.sleep(1)
        except KeyboardInterrupt:
            if stopped is not None:
                raise
            stopped = time.monotonic()
            progress(share, f"interrupted: fetching what {connection.name} has measured")
            run(connection, f"touch {shlex.quote(folder + '/interrupt')} && {_said('interrupted')}", "interrupted")


def _remove(connection: Connection, folder: str) -> str | None:
    """Ends what runs there and removes its folder; a sentence where that could not be done."""
    place = shlex.quote(folder)
    script = f"{_agent(connection, 'remove', folder)} 2>/dev/null; rm -rf {place}; [ -e {place} ] || {_said('removed')}"
    why = "interrupted"
    with suppress(KeyboardInterrupt):  # a second one
        try:
            run(connection, script, "removed", timeout=SILENCE_S)
            return None
        except KDCompressError as error:
            why = error.what
    return (
        f"{folder} on {connection.name} could not be removed ({why}); the agent there does so after "
        f"{connection.options.away:.0f} s without a connection."
    )


def _agent(connection: Connection, command: str, folder: str) -> str:
    return " ".join(map(shlex.quote, [connection.options.python, f"{folder}/agent.pyz", command, folder]))


def _said(key: str, value: Any = True) -> str:
    """A shell's command that says it as the agent does."""
    return f"echo {shlex.quote(MARK + json.dumps({key: value}))}"


def _limit_s(request: Request) -> float:
    """Many times what the measurement should take: an artefact is given up after CAP times its seconds, of which only
    every other query counts."""
    return 300 + 2.5 * timing.CAP * timing.EFFORTS[request.effort][1] * len(request.artifacts)
