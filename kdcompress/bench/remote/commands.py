"""Commands that run on another machine, and what they say."""

from __future__ import annotations

import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, suppress
from typing import IO, Any

from kdcompress.bench.machine import MIB
from kdcompress.bench.remote.connection import Connection
from kdcompress.bench.remote.messages import heard
from kdcompress.errors import KDCompressError, ended
from kdcompress.untrusted import plain

BEAT_S = 2.0  # between signs of life
SILENCE_S = 15.0  # without any from there: the connection is lost
COMMAND_S = 60.0
MOST_BYTES = 2**28  # of a line from there, the longest of which is the result
SPARE_BYTES = 8 * 2**20  # for the result and what runtimes write


def run(
    connection: Connection, script: str, expected: str, stdin: IO[bytes] | None = None, timeout: float = COMMAND_S
) -> None:
    """Runs a script that says something with the key ``expected`` in the end: adb's exit status is 0 also where the
    device vanished."""
    said, failure = asked(connection, script, stdin, timeout)
    if failure or not any(expected in message for message in said):
        raise failure or KDCompressError("The connection to the device is lost.", where=connection.name)


def asked(
    connection: Connection, script: str, stdin: IO[bytes] | None, timeout: float
) -> tuple[list[dict[str, Any]], KDCompressError | None]:
    """What a script there said, and why it failed where it did."""
    try:
        done = subprocess.run(
            connection.command(script),
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            start_new_session=True,  # Ctrl-C is for this process, which then ends all in order
        )
    except subprocess.TimeoutExpired:
        return [], KDCompressError(
            "The device does not answer.", where=connection.name, got=f"nothing within {timeout:.0f} s"
        )
    said = [m for line in done.stdout.decode(errors="replace").splitlines() if (m := heard(line))]
    if done.returncode == 0:
        return said, None
    words = done.stderr.decode(errors="replace").strip()
    if failure := connection.failure(done.returncode, words):
        return said, failure
    got = next((plain(_what(m["error"]), 1000) for m in said if "error" in m), words.splitlines()[-1] if words else "")
    if "No space left" in got or "File too large" in got:
        return said, full(connection, got)
    return said, KDCompressError(
        "A command failed on the device.", where=connection.name, got=got or ended(done.returncode)
    )


def _what(error: Any) -> Any:
    return error.get("what") if isinstance(error, dict) else error


def full(connection: Connection, got: str, size: int | None = None) -> KDCompressError:
    return KDCompressError(
        "The device's disk is full.",
        where=connection.name,
        got=got,
        allowed=f"{(size + SPARE_BYTES) / MIB:.1f} MiB or more" if size is not None else None,
        hint="make room there, or name another folder: --device '...?folder=/path'",
    )


def lines(connection: Connection, script: str) -> Generator[dict[str, Any] | KDCompressError]:
    """What a script there says, as it says it ({} for a sign of life); a failure at last where the connection drops.
    Signs of life go the other way."""
    told: queue.Queue[str | None] = queue.Queue()
    with ExitStack() as stack:
        words = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            connection.command(script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
        )
        stack.callback(_end, process)

        def read() -> None:
            for line in iter(lambda: process.stdout.readline(MOST_BYTES) if process.stdout else b"", b""):
                told.put(line.decode(errors="replace").rstrip("\r\n"))
            told.put(None)

        threading.Thread(target=read, daemon=True).start()
        last = beat = time.monotonic()
        while True:
            try:
                line = told.get(timeout=BEAT_S / 4)
                last = time.monotonic()
                if line is None:
                    break
                yield heard(line) or {}
            except queue.Empty:
                if time.monotonic() - last > SILENCE_S:
                    yield KDCompressError("nothing is heard")
                    return
            if time.monotonic() - beat > BEAT_S and process.stdin:
                beat = time.monotonic()
                try:
                    process.stdin.write(b"\n")
                    process.stdin.flush()
                except OSError:
                    break
        try:
            status = process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            yield KDCompressError("it says no more and does not end")
            return
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
        yield connection.failure(status, said) or KDCompressError(said.splitlines()[-1] if said else "it ended")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            with suppress(BrokenPipeError):
                stream.close()
