"""Decoded images, kept: a set of files is decoded once, and read as pixels by every later start.

They are one file of uint8 [N, H, W, C], NAME.npy in $KDCOMPRESS_IMAGE_CACHE, or in ``images`` in the user's cache (the
value ``off``: nothing is kept). The name is the hash of the files' paths, sizes and times of change, and of how they
are decoded. It stands there only when it is whole, and of several processes that want it one decodes and the rest wait.
What was not used for a month is removed when another set is decoded, and what was not used for the longest time where
the disk has no room.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from filelock import FileLock, Timeout

from kdcompress.artifact import replacing, user_cache, write_text
from kdcompress.console import say

MONTH = 30 * 86_400.0  # seconds
SPARE = 2**28  # bytes of a disk that are left free


def folder() -> Path | None:
    chosen = os.environ.get("KDCOMPRESS_IMAGE_CACHE")
    return None if chosen == "off" else Path(chosen or user_cache() / "images")


@dataclass(frozen=True, eq=False)
class Stored:
    """The images ``rows`` (int64 [N]) of a file, like an array uint8 [N, H, W, C]. What is indexed, by a number, a
    slice or an array of numbers, is read, as a copy; nothing else is in memory, so that the file may be larger."""

    path: Path
    memory: mmap.mmap
    pixels: np.ndarray  # all images of the file, on ``memory``
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.pixels.shape[1:]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, rows: np.ndarray | slice) -> Stored:
        """Some of the images, unread."""
        return replace(self, rows=self.rows[rows])

    @overload
    def __getitem__(self, key: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray: ...
    def __getitem__(self, key: Any) -> np.ndarray:
        found = np.take(self.pixels, self.rows[key], axis=0)  # other threads run meanwhile
        self.memory.madvise(mmap.MADV_DONTNEED)  # the pages stay in the system's cache, and are not this process's
        return found

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))


Images = np.ndarray | Stored


def chosen(images: Images, rows: np.ndarray | slice) -> Images:
    """Some of the images: of an array a copy, or a view for a slice; of a file unread."""
    return images.chosen(rows) if isinstance(images, Stored) else images[rows]


def opened(path: Path) -> Stored:
    os.utime(path)  # used now
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        pixels = np.frombuffer(memory, np.uint8, offset=file.tell()).reshape(shape)
    return Stored(path, memory, pixels, np.arange(shape[0]))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time makes ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("images: another process prepares them", style="dim")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write(path: Path, shape: tuple[int, ...], fill: Callable[[Callable[[int, np.ndarray], None]], None]) -> None:
    """Makes the file of images: ``fill(put)`` calls ``put(row, pixels)`` for each, in any order and thread.

    Raises OSError where it finds no room on the disk.
    """
    size = int(np.prod(shape, dtype=np.int64))
    say(f"images: decoding {shape[0]:,} once, {size / 1e6:,.0f} MB, kept in {path}", style="dim")
    with replacing(path) as temporary:
        make_room(path.parent, size)
        with temporary.open("wb", buffering=0) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            start, each = file.tell(), size // shape[0]

            def put(row: int, pixels: np.ndarray) -> None:
                data, offset = pixels.tobytes(), start + row * each
                while data:  # a full disk takes a part before it raises
                    done = os.pwrite(file.fileno(), data, offset)
                    data, offset = data[done:], offset + done

            fill(put)


def make_room(place: Path, need: int) -> None:
    """What was not used for a month is removed, then what was not used for the longest time until there is room; and
    what a killed process left. Raises OSError where that is not enough."""
    for partial in place.glob(".partial-*.npy"):
        lock = FileLock(place / f"{partial.stem.removeprefix('.partial-')}.lock")
        try:
            with lock.acquire(timeout=0):
                partial.unlink(missing_ok=True)
        except Timeout:
            pass  # being written
    files = {path: path.stat() for kind in ("npy", "json") for path in place.glob(f"[!.]*.{kind}")}
    free = shutil.disk_usage(place).free
    if free + sum(stat.st_size for stat in files.values()) < need + SPARE:
        raise OSError(errno.ENOSPC, f"{need / 2**30:.1f} GiB are needed and {free / 2**30:.1f} are free", str(place))
    for path, stat in sorted(files.items(), key=lambda each: each[1].st_mtime):
        short = path.suffix == ".npy" and shutil.disk_usage(place).free < need + SPARE
        if short or time.time() - stat.st_mtime > MONTH:
            say(f"images: {path} is removed, {stat.st_size / 1e6:,.0f} MB", style="dim")
            path.unlink(missing_ok=True)


def remembered(name: str, made: Callable[[], Any]) -> Any:
    """What ``made()`` returned when it was first asked for by this name, as JSON."""
    place = folder()
    if place is None:
        return made()
    path = place / f"{name}.json"
    try:
        with alone(path):
            if path.is_file():
                os.utime(path)
                return json.loads(path.read_text())
            write_text(path, json.dumps(found := made()))
            return found
    except OSError as error:
        say(f"images: {path} cannot be kept ({error.strerror or error})", style="yellow")
        return made()
