"""Stages: a step of a run with declared inputs, done once, whole or not there.

A stage's key is the hash of its version, parameters, inputs and the versions of the packages that
shape its output. Its files are written into ``KEY.partial`` and the folder is renamed when all is
there, so that a finished stage is whole and a killed run goes on where it was. Its record,
stage.json, has the hashes of its files and one of itself, result and all: a stage of which anything
was changed since is done again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdcompress.artifact import content_hash, kept_json, sha256, write_text
from kdcompress.console import say
from kdcompress.distributed import loss_of_a_process_told
from kdcompress.errors import KDCompressError, UsageError

RECORD = "stage.json"


@dataclass
class Stage:
    """``work(folder)`` writes the stage's files into ``folder`` and returns its JSON-able result.
    ``resumes``: what an interrupted ``work`` left in ``folder`` is of use to the next.
    ``collective``: all processes of a launch do it together, and the first one keeps what it made."""

    name: str
    work: Callable[[Path], dict[str, Any]]
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)  # name -> hash
    packages: tuple[str, ...] = ()
    version: int = 1
    resumes: bool = False
    collective: bool = False

    @property
    def key(self) -> str:
        return content_hash(
            {
                "name": self.name,
                "version": self.version,
                "params": self.params,
                "inputs": self.inputs,
                "packages": {name: _version(name) for name in self.packages},
            }
        )


@dataclass
class Done:
    """A finished stage. ``hash``, the input of later stages, is that of its files and key: a result also has times,
    which are others each time."""

    name: str
    key: str
    folder: Path
    result: dict[str, Any]
    hash: str
    seconds: float
    reused: bool

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key[:12], "seconds": self.seconds, "reused": self.reused}


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

    def _folder(self, stage: Stage) -> Path:
        return self.path / "stages" / stage.name / stage.key[:16]

    def _partial(self, stage: Stage) -> Path:
        folder = self._folder(stage)
        return folder.with_name(folder.name + ".partial")

    def finished(self, stage: Stage) -> Done | None:
        """What the stage made, where it was done with these very inputs and its files are whole."""
        folder = self._folder(stage)
        if not (folder / RECORD).exists():
            return None
        record = read_record(folder)
        if record is None or record["hash"] != _hash(record["files"], stage):
            self._tell(stage, RECORD)
            return None
        for name, digest in record["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != digest:
                self._tell(stage, name)
                return None
        return Done(stage.name, stage.key, folder, record["result"], record["hash"], record["seconds"], reused=True)

    def _tell(self, stage: Stage, name: str) -> None:
        path = self._folder(stage) / name
        if path not in self._told:
            say(f"{stage.name}: {path} is damaged or was changed, and the step is done again", style="yellow")
        self._told.add(path)

    def run(self, stage: Stage, force: bool = False) -> Done:
        """Do the stage, or return what was done. ``force`` does it again from the beginning."""
        if not force and (done := self.finished(stage)):
            return done
        if stage.collective and int(os.environ.get("RANK", "0")) > 0:
            stage.work(self._partial(stage))  # the first process prepares the folder and keeps the result
            _wait_for_everyone()
            done = self.finished(stage)
            if done is None:
                raise KDCompressError(f"The first process did not finish the stage {stage.name!r}.", where=self.path)
            return done
        with self._one_at_a_time(stage):
            if force or not (done := self.finished(stage)):  # another process may just have done it
                done = self._do(stage, force)
        if stage.collective:
            _wait_for_everyone()
        return done

    @contextmanager
    def _one_at_a_time(self, stage: Stage) -> Iterator[None]:
        """Several processes of a sweep share a folder; a stage that they have in common is done by one."""
        lock = self.path / ".locks" / f"{stage.name}-{stage.key[:16]}"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def _do(self, stage: Stage, force: bool) -> Done:
        folder, partial = self._folder(stage), self._partial(stage)
        if partial.exists() and (force or not stage.resumes):
            shutil.rmtree(partial)
        begun = time.monotonic()
        try:
            partial.mkdir(parents=True, exist_ok=True)
            result = stage.work(partial)
            files = {p.relative_to(partial).as_posix(): sha256(p) for p in sorted(partial.rglob("*")) if p.is_file()}
            record: dict[str, Any] = {
                "stage": stage.name,
                "version": stage.version,
                "params": stage.params,
                "inputs": stage.inputs,
                "result": result,
                "files": files,
                "hash": _hash(files, stage),
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
                f"The stage {stage.name!r} could not write its files.",
                where=partial,
                got=error.strerror or str(error),
                hint="free some space or choose another folder with --output; finished stages are kept",
            ) from error
        return Done(stage.name, stage.key, folder, record["result"], record["hash"], record["seconds"], reused=False)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the stage that was finished in ``folder``; None where there is none, or it is not as it was
    written. One from before records had a hash of their own has none to be compared."""
    record = kept_json(folder / RECORD)
    if not isinstance(record, dict) or record.pop("sha256", None) not in (None, content_hash(record)):
        return None
    kinds: dict[str, Any] = {"stage": str, "result": dict, "files": dict, "hash": str, "seconds": (int, float)}
    return record if all(isinstance(record.get(key), kind) for key, kind in kinds.items()) else None


def _hash(files: dict[str, str], stage: Stage) -> str:
    return content_hash([files, stage.key])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@loss_of_a_process_told()
def _wait_for_everyone() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()
