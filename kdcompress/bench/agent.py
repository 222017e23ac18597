"""What runs on another machine: ``python agent.pyz COMMAND FOLDER``, with Python and a runtime, without kdcompress.

The file is a zip of kdcompress's own modules, so that the protocol is the same one. In its folder, which is all that
it writes to, it keeps the process alive that measures, whatever becomes of the connection:

    start      says what this machine is and has, and leaves a supervisor behind
    receive    unpacks the job, a tar on standard input
    follow     tells how far it is, and at the end the result, as long as standard input gives a sign of life
    remove     ends the processes and removes the folder

The supervisor removes all by itself where the other side gives no sign of life for ``away_s`` seconds, and ends a
measurement that takes longer than ``limit_s``.

What is said to the other side are lines that start with MARK, JSON behind it. This file has to be importable with
nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import pkgutil
import platform
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from kdcompress.errors import KDCompressError, RuntimeMissingError, ended
from kdcompress.optional import is_installed

MARK = "@kdcompress "
POLL_S = 0.5
REMOVED = "its folder has been removed there"
# What to install for a format, where kdcompress itself is not there.
PACKAGES = {
    "onnx": "onnxruntime",
    "ort": "onnxruntime",
    "litert": "ai-edge-litert",
    "executorch": "executorch",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "mnn": "MNN",
    "tensorrt": "tensorrt torch",
    "tensorrt-rtx": "tensorrt-rtx torch",
    "coreml": "coremltools pillow",
}


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


def say(message: dict[str, Any]) -> None:
    print("\n" + MARK + json.dumps(message, default=str), flush=True)


def heard(line: str) -> dict[str, Any] | None:
    """What a line says, where it is one of ``say``'s, and whole: a connection can drop in the middle of it."""
    if not line.startswith(MARK):
        return None
    try:
        found = json.loads(line[len(MARK) :])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def start(folder: Path, options: str) -> None:
    """``options``: JSON with ``away_s``, and ``runtimes``: formats, and the module that holds ``runners``."""
    asked = json.loads(options)
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": _path(folder)}
    sign(folder)
    with (folder / "log").open("w") as log:
        supervisor = subprocess.Popen(
            [sys.executable, sys.argv[0], "supervise", str(folder), str(asked["away_s"])],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
    (folder / "pid").write_text(str(supervisor.pid))
    say({"folder": str(folder), **facts(folder, asked["formats"], asked["runners"])})


def _path(folder: Path) -> str:
    """PYTHONPATH of what is started from here: this file, what stands in for psutil where it is not installed, and
    what there was."""
    found = [sys.argv[0], os.environ.get("PYTHONPATH", "")]
    if not is_installed("psutil") and sys.platform in ("linux", "android"):
        (folder / "lib").mkdir(exist_ok=True)
        (folder / "lib" / "psutil.py").write_bytes(pkgutil.get_data("kdcompress.bench", "procfs.py") or b"")
        found.insert(1, str(folder / "lib"))
    return os.pathsep.join(filter(None, found))


def facts(folder: Path, formats: list[str], runners: str) -> dict[str, Any]:
    """What this machine is, and by format what keeps it from being run here."""
    if (folder / "lib").exists():  # what stands in for psutil
        sys.path.append(str(folder / "lib"))
    lacking = [name for name in ("numpy", "psutil") if not is_installed(name)]
    missing: dict[str, dict[str, str]] = {}
    for name in formats:
        packages = [*lacking, *PACKAGES.get(name, name).split()]
        hint = f"install it there: {sys.executable} -m pip install {' '.join(packages)}"
        if lacking:
            missing[name] = {"got": f"No module named {lacking[0]!r}", "hint": hint}
            continue
        runner = import_module(runners).runner_class(name)
        try:
            if runner is None:
                raise RuntimeMissingError("No runtime for this format.")
            runner.check()
        except RuntimeMissingError as error:
            missing[name] = {"got": str(error.got or error.what), "hint": hint}
    return {
        "python": platform.python_version(),
        "architecture": platform.machine(),
        "instructions": [] if "psutil" in lacking else sorted(import_module("kdcompress.bench.machine").cpu_flags()),
        "system": platform.system(),
        "free_bytes": shutil.disk_usage(folder).free,
        "missing": missing,
    }


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
        _answer(folder, {"error": {"what": "Measuring failed on the device.", "got": why}})
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


def measure(folder: Path) -> None:
    """The job, by kdcompress's own protocol; then the logits of its first images, to be compared."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from dataclasses import asdict

    import numpy as np

    from kdcompress.artifact import Artifact
    from kdcompress.bench.devices import Request, add_memory, local
    from kdcompress.bench.machine import machine
    from kdcompress.runner import infer_all

    job = json.loads((folder / "job.json").read_text())
    images = np.load(folder / "images.npy")
    module, _, name = job["open"].partition(":")
    answer: dict[str, Any] = {}
    try:
        open_runner = getattr(import_module(module), name)
        artifacts = {
            label: Artifact.from_json(data, folder / "artifacts" / str(i)).verified()
            for i, (label, data) in enumerate(job["artifacts"].items())
        }
        if job["timed"]:
            request = Request(artifacts, images, open_runner, **job["request"])
            session = local(request, "", _told)
            add_memory(session, request)
            answer = asdict(session)
        else:
            answer = {"before": machine()}
        answer["logits"] = logits = {}
        for label, artifact in artifacts.items():
            if answer.get("interrupted"):
                break
            _told(1.0, f"outputs of {label}")
            try:
                with open_runner(artifact, threads=job["request"]["threads"]) as runner:
                    (found,) = infer_all(runner, images[: job["compared"]], artifact.input)
                    logits[label] = {"logits": found.tolist(), "runtime": runner.details()}
            except Exception as error:  # a runtime's own errors have no common type
                logits[label] = {"failed": f"{type(error).__name__}: {error}"}
    except KDCompressError as error:
        answer = {"error": {"what": error.what, "got": error.got, "hint": error.hint}}
    shutil.rmtree(folder / "artifacts")  # makes room for the result on a disk that is full
    _answer(folder, answer)


def _told(share: float, what: str) -> None:
    with suppress(OSError):  # the disk is full; the measurement needs none
        say({"share": share, "what": what})


def _answer(folder: Path, answer: dict[str, Any]) -> None:
    partial = folder / "result.partial"
    partial.write_text(json.dumps(answer, default=str))
    os.replace(partial, folder / "result.json")
