"""A run's folder: a step with declared inputs is done once, whole or not there.

A step's key is the hash of its version, parameters, inputs and the versions of the packages that shape its output. Its
files are written into ``KEY.partial`` and the folder is renamed when all is there, so that a finished step is whole and
a killed run goes on where it was. Its record, step.json, has the hashes of its files and one of itself, result and all:
a step of which anything was changed since is done again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from kdcompress.artifact import content_hash, kept_json, sha256, write_text
from kdcompress.console import say
from kdcompress.distributed import is_main_process, loss_of_a_process_told
from kdcompress.errors import KDCompressError, UsageError

STEPS = "steps"
RECORD = "step.json"


@dataclass(frozen=True)
class Key:
    """All that a step's result depends on."""

    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)  # name -> hash
    packages: tuple[str, ...] = ()
    version: int = 1

    def hash(self, name: str) -> str:
        packages = {package: _version(package) for package in self.packages}
        facts = {"params": self.params, "inputs": self.inputs, "packages": packages, "version": self.version}
        return content_hash({"name": name, **facts})


@dataclass(frozen=True)
class Done:
    """A finished step. ``hash``, the input of later steps, is that of its files and key: a result also has times, which
    are others each time."""

    name: str
    key: str
    folder: Path
    result: dict[str, Any]
    hash: str
    seconds: float
    reused: bool

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key[:12], "seconds": self.seconds, "reused": self.reused}


Inputs = Mapping[Any, Done]
"""Finished steps by their names."""


class Step(ABC):
    """A piece of a run. ``str(name)`` is its folder's name."""

    name: Any
    collective: ClassVar[bool] = False  # all processes of a launch do it together, and the first keeps what it made

    @property
    def after(self) -> tuple[Any, ...]:
        """Names of the steps whose results it takes."""
        return ()

    @property
    def resumes(self) -> bool:
        """Whether what an interrupted ``do`` left in its folder is of use to the next."""
        return False

    @property
    def may_fail(self) -> bool:
        """Whether the others go on without it."""
        return False

    def check(self) -> None:
        """Raises RuntimeMissingError where it cannot be done on this machine."""
        return

    @abstractmethod
    def key(self, inputs: Inputs) -> Key: ...

    @abstractmethod
    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """Write the step's files into ``folder`` and return its JSON-able result."""


class RunFolder:
    """The folder of one run, for one writer at a time."""

    def __init__(self, path: Path):
        self.path = path
        self._told: set[Path] = set()

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Hold the folder. Raises UsageError where another process does or it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                "Another process is writing to this run folder.",
                where=self.path,
                hint="wait for it to end, or choose another folder with --output",
            ) from error
        except OSError as error:
            raise UsageError(
                "The run folder cannot be written.",
                where=self.path,
                got=error.strerror,
                hint="choose another with --output",
            ) from error
        try:
            yield self
        finally:
            lock.release()

    def _folder(self, name: str, key: str) -> Path:
        return self.path / STEPS / name / key[:16]

    def finished(self, step: Step, inputs: Inputs | None = None) -> Done | None:
        """What the step made, where it was done with these very inputs and its files are whole."""
        name = str(step.name)
        return self._finished(name, step.key(inputs or {}).hash(name))

    def _finished(self, name: str, key: str) -> Done | None:
        folder = self._folder(name, key)
        if not (folder / RECORD).exists():
            return None
        record = read_record(folder)
        if record is None or record["hash"] != content_hash([record["files"], key]):
            self._tell(name, folder / RECORD)
            return None
        for file, digest in record["files"].items():
            if not (folder / file).is_file() or sha256(folder / file) != digest:
                self._tell(name, folder / file)
                return None
        return Done(name, key, folder, record["result"], record["hash"], record["seconds"], reused=True)

    def _tell(self, name: str, path: Path) -> None:
        if path not in self._told:
            say(f"{name}: {path} is damaged or was changed, so the step is done again", style="yellow")
        self._told.add(path)

    def run(self, step: Step, inputs: Inputs | None = None, force: bool = False) -> Done:
        """Do the step, or return what was done. ``force`` does it again from the beginning."""
        inputs = inputs or {}
        name, key = str(step.name), step.key(inputs)
        hashed = key.hash(name)
        if not force and (done := self._finished(name, hashed)):
            return done
        if step.collective and not is_main_process():
            step.do(_partial(self._folder(name, hashed)), inputs)  # the first process prepares it, and keeps the result
            _wait_for_everyone()
            done = self._finished(name, hashed)
            if done is None:
                raise KDCompressError(f"The first process did not finish the step {name!r}.", where=self.path)
            return done
        with self._one_at_a_time(name, hashed):
            if force or not (done := self._finished(name, hashed)):  # another process may just have done it
                done = self._do(step, inputs, key, force)
        if step.collective:
            _wait_for_everyone()
        return done

    @contextmanager
    def _one_at_a_time(self, name: str, key: str) -> Iterator[None]:
        """Several processes of a sweep share a folder; a step that they have in common is done by one."""
        lock = self.path / ".locks" / f"{name}-{key[:16]}"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def _do(self, step: Step, inputs: Inputs, key: Key, force: bool) -> Done:
        name = str(step.name)
        hashed = key.hash(name)
        folder = self._folder(name, hashed)
        partial = _partial(folder)
        if partial.exists() and (force or not step.resumes):
            shutil.rmtree(partial)
        begun = time.monotonic()
        try:
            partial.mkdir(parents=True, exist_ok=True)
            result = step.do(partial, inputs)
            files = {p.relative_to(partial).as_posix(): sha256(p) for p in sorted(partial.rglob("*")) if p.is_file()}
            record: dict[str, Any] = {
                "step": name,
                "version": key.version,
                "params": key.params,
                "inputs": key.inputs,
                "result": result,
                "files": files,
                "hash": content_hash([files, hashed]),
                "seconds": round(time.monotonic() - begun, 3),
            }
            as_read = json.loads(json.dumps(record, default=str))
            text = json.dumps({**as_read, "sha256": content_hash(as_read)}, indent=1)
            write_text(partial / RECORD, text)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
        except OSError as error:
            raise KDCompressError(
                f"The step {name!r} could not write its files.",
                where=partial,
                got=error.strerror or str(error),
                hint="free some space or choose another folder with --output; finished steps are kept",
            ) from error
        return Done(name, hashed, folder, record["result"], record["hash"], record["seconds"], reused=False)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the step that was finished in ``folder``; None where there is none, or it is not as it was
    written."""
    record = kept_json(folder / RECORD)
    if not isinstance(record, dict) or record.pop("sha256", None) != content_hash(record):
        return None
    kinds: dict[str, Any] = {"step": str, "result": dict, "files": dict, "hash": str, "seconds": (int, float)}
    return record if all(isinstance(record.get(key), kind) for key, kind in kinds.items()) else None


def _partial(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@loss_of_a_process_told()
def _wait_for_everyone() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()
