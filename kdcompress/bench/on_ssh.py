"""Another machine over ssh: a Raspberry Pi, a Jetson, a server.

The address is what ``ssh`` takes, with a port where it is not the usual one: ``ssh:pi@10.0.0.7:2222``, ``ssh:myhost``.
It is the system's ssh that is run, so the user's configuration, keys, agent and known hosts are used; it never asks for
anything. Behind a ``?`` stand ``remote.connection.Options``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcompress.bench.devices import Request, Session, devices, probes
from kdcompress.bench.remote import conversation
from kdcompress.bench.remote.connection import Options, parse_options
from kdcompress.bench.timing import Progress
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.runner import Runner

CONNECT_S = 10
# What no shell takes apart, for a user's ProxyCommand gets it too, and no option of ssh's.
HOST = re.compile(r"(ssh://)?(?!-)([\w.+~%-]+@)?(?!-)[\w.%:-]+|(ssh://)?(?!-)([\w.+~%-]+@)?\[[\w.%:]+\]")
ALIVE_S = 5  # between ssh's own signs of life; three without an answer and the connection is lost


@dataclass(frozen=True)
class Ssh:
    """A ``remote.connection.Connection``."""

    host: str  # as ssh takes it, the user with it
    port: str
    options: Options
    socket: Path | None = None  # where one connection is shared by all commands

    @property
    def name(self) -> str:
        return f"ssh:{self.host}" + (f":{self.port}" if self.port else "")

    def ssh(self, *options: str) -> list[str]:
        shared = ["-S", str(self.socket) if self.socket else "none"]
        quiet = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "LogLevel=ERROR"]
        alive = ["-o", f"ServerAliveInterval={ALIVE_S}", "-o", "ServerAliveCountMax=3"]
        port = ["-p", self.port] if self.port else []
        return ["ssh", *shared, *quiet, *alive, *port, *options, "--", self.host]

    def command(self, script: str) -> list[str]:
        return [*self.ssh("-o", "ControlMaster=no"), f"exec sh -c {_quoted(script)}"]

    def failure(self, status: int, words: str) -> KDCompressError | None:
        if status != 255:  # ssh's own status; others are those of the command
            return None
        said = words.splitlines()
        reason = next((line for line in said if line.startswith(("Host key", "Permission", "ssh:"))), "")
        got = reason or (said[-1] if said else "no message")
        plain = " ".join(["ssh", *(["-p", self.port] if self.port else []), self.host])
        if "Host key verification failed" in words:
            hint = f"run `{plain}` once to accept its key, or, where the key has changed, find out why"
        elif "Permission denied" in words:
            hint = f"kdcompress asks for no password: `{plain} true` has to work without one (ssh-copy-id)"
        else:
            hint = f"`{plain} true` has to work first"
        return RuntimeMissingError("The device cannot be reached over ssh.", where=self.name, got=got, hint=hint)


def _quoted(script: str) -> str:
    """In single quotes, which sh, bash, zsh and fish read alike."""
    return "'" + script.replace("'", "'\\''") + "'"


@devices.register("ssh")
def bench(request: Request, address: str, progress: Progress) -> Session:
    """``address``: [user@]host[:port][?options]."""
    with _connected(address) as connection:
        return conversation.bench(connection, request, progress)


@probes.register("ssh")
def probe(address: str, formats: Sequence[str], open: Callable[..., Runner]) -> dict[str, Any]:
    with _connected(address) as connection:
        return conversation.probe(connection, formats, open)


@contextmanager
def _connected(address: str) -> Iterator[Ssh]:
    if not shutil.which("ssh"):
        raise RuntimeMissingError("There is no ssh on this machine.", hint="install OpenSSH's client")
    plain, options = parse_options(address, "ssh")
    host, _, port = plain.rpartition(":") if plain.rpartition(":")[2].isdigit() else (plain, "", "")
    if not HOST.fullmatch(host):
        what = "is not the name of a host" if host else "is missing"
        raise UsageError(f"The address of the device {what}.", where="--device", got=f"ssh:{address:.200}",
                         allowed="ssh:[user@]host[:port]")  # fmt: skip
    with shared(Ssh(host, port, options)) as connection:
        yield connection


@contextmanager
def shared(connection: Ssh) -> Iterator[Ssh]:
    """The connection with a socket through which all commands share one, so that its key is asked for once. It ends
    with this process, however that ends; while there is none, each command makes its own."""
    if os.name == "nt":  # OpenSSH for Windows cannot
        yield connection
        return
    with tempfile.TemporaryDirectory(prefix="kdc-") as folder:
        one = replace(connection, socket=Path(folder, "s"))
        master = subprocess.Popen(
            [*one.ssh("-M"), "exec cat"],  # ends when standard input does
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + CONNECT_S
            while master.poll() is None and not Path(folder, "s").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            yield one
        finally:
            if master.stdin:
                master.stdin.close()
            try:
                master.wait(5)
            except subprocess.TimeoutExpired:
                master.kill()
                master.wait()
