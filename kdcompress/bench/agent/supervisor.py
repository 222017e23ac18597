"""The process that stays, whatever becomes of the connection, and the commands of the other side that it serves.

    start      says what this machine is and has, and leaves a supervisor behind
    receive    unpacks the job, a tar on standard input
    follow     tells how far it is, and at the end the result, as long as standard input gives a sign of life
    remove     ends the processes and removes the folder

The supervisor removes all by itself where the other side gives no sign of life for ``away_s`` seconds, and ends a
measurement that takes longer than ``limit_s``.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

from kdcompress.bench.agent.facts import facts, python_path
from kdcompress.bench.agent.words import MARK, leave, say
from kdcompress.errors import ended

POLL_S = 0.5
REMOVED = "its folder has been removed there"


def start(folder: Path, options: str) -> None:
    """``options``: JSON with ``away_s``, ``formats``, and in ``runners`` the module that has them."""
    asked = json.loads(options)
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": python_path(folder)}
    sign(folder)
    with (folder / "log").open("w") as log:
        supervisor = subprocess.Popen(
            [sys.executable, sys.argv[0], "supervise", str(folder), str(asked["away_s"])],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
    (folder / "pid").write_text(str(supervisor.pid))
    say({"folder": str(folder), **facts(folder, asked["formats"], asked["runners"])})


def sign(folder: Path) -> None:
    """The other side is there."""
    (folder / "alive").touch()


class _Signs:
    """Standard input, where each read is a sign of life."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, size: int) -> bytes:
        sign(self.folder)
        return sys.stdin.buffer.read(size)


def receive(folder: Path) -> None:
    """The job is there once job.json is, which comes last and gets its name when all is."""
    with tarfile.open(fileobj=_Signs(folder), mode="r|") as tar:  # type: ignore[call-overload]
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    os.replace(folder / "job.partial", folder / "job.json")
    say({"received": True})


def follow(folder: Path) -> None:
    """Ends with the result, or why there will be none; without either where the other side is gone."""
    at = 0
    while True:
        if not folder.is_dir():
            say({"gone": REMOVED})
            return
        if select.select([sys.stdin], [], [], POLL_S)[0]:
            if not os.read(sys.stdin.fileno(), 4096):
                return
            sign(folder)
        result, running = folder / "result.json", _running(folder)
        with (folder / "log").open(errors="replace") as log:
            log.seek(at)
            lines = log.read().splitlines()
            at = log.tell()
        told = [line for line in lines if line.startswith(MARK)]
        print(told[-1] if told else "", flush=True)  # an empty line: all is well
        if result.exists():
            say({"result": json.loads(result.read_text())})
            return
        if not running:
            say({"gone": "; ".join(_last_words(folder)) or "its process has been ended"})
            return


def _running(folder: Path) -> bool:
    try:
        pid = int((folder / "pid").read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return False
    with suppress(OSError):  # one that has ended is there until it is waited for, which in a container may be never
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].lstrip().startswith("Z")
    return True


def _last_words(folder: Path, most: int = 3) -> list[str]:
    lines = (folder / "log").read_text(errors="replace").splitlines()
    return [line.strip()[:300] for line in lines if line.strip() and not line.startswith(MARK)][-most:]


def remove(folder: Path) -> None:
    with suppress(OSError, ValueError):  # it has ended
        os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def supervise(folder: Path, away_s: str) -> None:
    """Waits for the job, runs it in a process of its own, then waits for the folder to be removed."""
    away = _Away(folder, float(away_s))
    while not (folder / "job.json").exists():
        away.check()
        time.sleep(POLL_S)
    job = json.loads((folder / "job.json").read_text())
    ends, interrupted = time.monotonic() + job["limit_s"], False
    child = subprocess.Popen([sys.executable, sys.argv[0], "measure", str(folder)], stdin=subprocess.DEVNULL)
    why = None
    while child.poll() is None:
        away.check()
        if (folder / "interrupt").exists() and not interrupted:
            interrupted = True
            child.send_signal(signal.SIGINT)
        if time.monotonic() > ends:
            why = f"it took longer than {job['limit_s']:.0f} s there"
            child.kill()
        time.sleep(POLL_S)
    if not (folder / "result.json").exists():
        why = (
            why or f"its process ended with {ended(child.returncode)}: {'; '.join(_last_words(folder)) or 'no message'}"
        )
        leave(folder, {"error": {"what": "Measuring failed on the device.", "got": why}})
    while True:
        away.check()
        time.sleep(POLL_S)


class _Away:
    def __init__(self, folder: Path, away_s: float):
        self.folder, self.away_s = folder, away_s
        self.last, self.seen = time.monotonic(), -1.0

    def check(self) -> None:
        """Ends all, this process too, where the folder is gone or no sign of life came for too long."""
        try:
            stamp = (self.folder / "alive").stat().st_mtime
        except OSError:
            stamp = None
        if stamp != self.seen and stamp is not None:  # the clock that counts is this process's
            self.seen, self.last = stamp, time.monotonic()
        if stamp is None or time.monotonic() - self.last > self.away_s:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)  # the group is this process and what it started
            shutil.rmtree(self.folder, ignore_errors=True)
            sys.exit()
