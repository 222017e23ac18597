"""A device on the Android Debug Bridge that has a Python: a board with Linux and adbd, a rooted phone.

The address is the serial number as ``adb devices`` shows it, ``adb:SERIAL``, or nothing where there is one device.
Behind a ``?`` stand ``remote.connection.Options``. The agent is Python with a runtime's Python package: an ordinary
phone has neither, and its shell may not enter the folder of an app such as Termux.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdcompress.bench.devices import Request, Session, devices, probes
from kdcompress.bench.remote import conversation
from kdcompress.bench.remote.connection import Options, parse_options
from kdcompress.bench.timing import Progress
from kdcompress.errors import KDCompressError, RuntimeMissingError, ended
from kdcompress.runner import Runner

FOLDER = "/data/local/tmp"  # where Android lets a shell write and run; a Linux device has none
LIST_S = 30.0
LOST = ("error:", "adb: error", "adb:", "protocol fault")  # what adb itself says starts so


@dataclass(frozen=True)
class Adb:
    """A ``remote.connection.Connection``."""

    serial: str
    options: Options

    @property
    def name(self) -> str:
        return f"adb:{self.serial}"

    def command(self, script: str) -> list[str]:
        # A shell without a terminal, so that the streams stay apart and as they are, and the exit status comes back.
        return ["adb", "-s", self.serial, "shell", "-T", script]

    def failure(self, status: int, words: str) -> KDCompressError | None:
        said = next((line for line in words.splitlines() if line.startswith(LOST)), None)
        if said is None:
            return None
        return RuntimeMissingError(
            "The device cannot be reached over adb.", where=self.name, got=said, hint="`adb devices` shows what can"
        )


@devices.register("adb")
def bench(request: Request, address: str, progress: Progress) -> Session:
    """``address``: [serial][?options]."""
    return conversation.bench(_connected(address), request, progress)


@probes.register("adb")
def probe(address: str, formats: Sequence[str], open: Callable[..., Runner]) -> dict[str, Any]:
    return conversation.probe(_connected(address), formats, open)


def _connected(address: str) -> Adb:
    if not shutil.which("adb"):
        raise RuntimeMissingError(
            "There is no adb on this machine.", hint="install Android's platform tools (Debian: adb)"
        )
    serial, options = parse_options(address, "adb")
    connection = Adb(_chosen(serial), options)
    if not options.folder and _is_android(connection):
        connection = replace(connection, options=replace(options, folder=FOLDER))
    return connection


def _chosen(serial: str) -> str:
    """The device of that serial number, or the only one. Raises RuntimeMissingError where it is not ready."""
    try:
        done = subprocess.run(
            ["adb", "devices"], capture_output=True, encoding="utf-8", errors="replace", timeout=LIST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeMissingError("adb's server does not answer.", got=f"nothing within {LIST_S:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeMissingError("adb's server does not answer.", got=said[-1] if said else ended(done.returncode))
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    states = {row[0]: row[1] for row in rows}
    listed = ", ".join(f"{name} ({state})" for name, state in states.items()) or "no device"
    ready = [name for name, state in states.items() if state == "device"]
    if serial in ready:
        return serial
    if not serial and len(ready) == 1:
        return ready[0]
    if serial:
        what = f"adb has no device {serial} that is ready."
    else:
        what = "Several devices are ready: a serial number is wanted." if ready else "adb has no device that is ready."
    raise RuntimeMissingError(
        what,
        where="--device",
        got=listed,
        allowed="adb:SERIAL",
        hint="connect it, switch on USB debugging and allow this computer on its screen, or `adb connect HOST:PORT`",
    )


def _is_android(connection: Adb) -> bool:
    command = connection.command(f"test -d {FOLDER}")
    try:
        return subprocess.run(command, capture_output=True, timeout=LIST_S, check=False).returncode == 0
    except subprocess.TimeoutExpired as error:
        raise RuntimeMissingError(
            "The device does not answer.", where=connection.name, got=f"nothing within {LIST_S:.0f} s"
        ) from error
