"""Decoded images, kept: a set of files is decoded once, and read as pixels by every later start.

They are one file of uint8 [N, H, W, C], NAME.npy in $KDCOMPRESS_IMAGE_CACHE, or in ``images`` in the user's cache (the
value ``off``: nothing is kept). The name is the hash of where the files are, what they are and how they are decoded
(``decode.identity``). It stands there only when it is whole, and of several processes that want it one decodes and the
rest wait. What was not used for a month is removed when another set is decoded, and what was not used for the longest
time where the disk has no room.

Nothing is believed: behind the pixels are the checksum (CRC-32) of each image, and the hash of those. An image is
checked when a process reads it for the first time, at 1.5 to 2 GB/s a core, and decoded again where it is damaged; a
file that is not whole is removed and made again. Folder and files are the user's alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, overload

import numpy as np
from filelock import FileLock, Timeout

from kdcompress.artifact import content_hash, open_new, open_private, parsed, private_folder, replacing, user_cache
from kdcompress.console import say
from kdcompress.data.about import describe, forget
from kdcompress.data.joined import Joined
from kdcompress.data.recoloured import Recoloured
from kdcompress.errors import KDCompressError

MONTH = 30 * 86_400.0  # seconds
SPARE = 2**28  # bytes of a disk that are left free
NAME = "[0-9a-f]" * 64  # of what is kept: nothing else in the folder is touched
TAIL = 8 + 32  # bytes: how many checksums there are, and the SHA-256 of the header, of them and of that

Again = Callable[[int, tuple[int, ...]], np.ndarray]  # decodes an image: its row, its shape
Fill = Callable[[Callable[[int, np.ndarray], None]], None]


def folder() -> Path | None:
    chosen = os.environ.get("KDCOMPRESS_IMAGE_CACHE")
    return None if chosen == "off" else Path(chosen or user_cache() / "images")


@dataclass(frozen=True, eq=False)
class Stored:
    """The images ``rows`` (int64 [N]) of a file, like an array uint8 [N, H, W, C]. What is indexed, by a number, a
    slice or an array of numbers, is read, as a copy; nothing else is in memory, so that the file may be larger.

    Reading raises KDCompressError for an image that is damaged and cannot be decoded again.
    """

    path: Path
    memory: mmap.mmap
    pixels: np.ndarray  # all images of the file, on ``memory``
    rows: np.ndarray
    sums: np.ndarray  # uint32 [images of the file]
    again: Again | None
    hash: str  # of the sums
    checked: np.ndarray  # bool [images of the file], of this process
    mended: set[int] = field(default_factory=set)

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
        rows = np.atleast_1d(self.rows[key])
        unchecked = np.flatnonzero(~self.checked[rows])  # before they are read: another thread may mend them now
        found = np.take(self.pixels, rows, axis=0)  # other threads run meanwhile
        self.memory.madvise(mmap.MADV_DONTNEED)  # the pages stay in the system's cache, and are not this process's
        for place, row in zip(unchecked.tolist(), rows[unchecked].tolist()):
            if zlib.crc32(found[place]) == self.sums[row]:
                self.checked[row] = True
            else:
                found[place] = self._mend(row)
        return found if np.ndim(self.rows[key]) else found[0]

    def _mend(self, row: int) -> np.ndarray:
        if not self.mended:
            say(f"images: {self.path} is damaged; the damaged images are decoded again", style="yellow")
        self.mended.add(row)
        try:
            if self.again is None:
                raise ValueError("its file is not known")
            pixels = self.again(row, self.pixels.shape[1:])
            if zlib.crc32(pixels.tobytes()) != self.sums[row]:
                raise ValueError("its file has changed")
        except Exception as error:  # decoders raise many kinds
            self.path.unlink(missing_ok=True)
            raise KDCompressError(
                "A kept image is damaged, and it cannot be decoded again.",
                where=self.path,
                got=f"image {row}: {error}",
                hint="run the same command again: it decodes all images, and a training goes on from where it was",
            ) from error
        offset = len(self.memory) - tail_of(len(self.sums)) - (len(self.sums) - row) * pixels.nbytes
        with suppress(OSError), os.fdopen(open_private(self.path, os.O_WRONLY), "wb", buffering=0) as file:
            put(file.fileno(), offset, pixels.tobytes())
        return pixels

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))


Images = np.ndarray | Stored | Joined | Recoloured


def chosen(images: Images, rows: np.ndarray | slice) -> Images:
    """Some of the images: of an array a copy, or a view for a slice; of a file unread."""
    return images.chosen(rows) if isinstance(images, Stored | Recoloured) else images[rows]


def identified(images: Images) -> bytes | None:
    """What tells images of a file from others; None for those that are in memory."""
    if isinstance(images, Recoloured):
        inner = identified(images.images)
        return None if inner is None else b"%d channels of " % images.channels + inner
    return images.hash.encode() + images.rows.tobytes() if isinstance(images, Stored) else None


def opened(path: Path, again: Again | None = None) -> Stored | None:
    """The file of images; None where there is none, or one that is not whole, which is removed."""
    try:
        file = os.fdopen(open_private(path, os.O_RDONLY), "rb")
    except FileNotFoundError:
        return None
    with file:
        os.utime(file.fileno())  # used now
        if found := _whole(path, file.fileno(), again):
            return found
    say(f"images: {path} is damaged, and is made again", style="yellow")
    path.unlink()
    return None


def _whole(path: Path, descriptor: int, again: Again | None) -> Stored | None:
    size = os.fstat(descriptor).st_size
    if size <= 10 + TAIL:
        return None
    memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    start = 10 + int.from_bytes(memory[8:10], "little")
    count = int.from_bytes(memory[-TAIL : 8 - TAIL], "little")
    end = size - tail_of(count)
    if end <= start or hashlib.sha256(memory[:start] + memory[end:-32]).digest() != memory[-32:]:
        return None
    shape, _, _ = np.lib.format.read_array_header_1_0(BytesIO(memory[8:start]))
    if int(np.prod(shape, dtype=np.int64)) != end - start:
        return None
    pixels = np.frombuffer(memory, np.uint8, end - start, start).reshape(shape)
    sums = np.frombuffer(memory[end:-TAIL], "<u4")
    return Stored(path, memory, pixels, np.arange(count), sums, again, memory[-32:].hex(), np.zeros(count, bool))


def tail_of(count: int) -> int:
    """Bytes behind the pixels of so many images."""
    return 4 * count + TAIL


def put(descriptor: int, offset: int, data: bytes) -> None:
    while data:  # a full disk takes a part before it raises
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time makes ``path``."""
    private_folder(path.parent)
    lock = FileLock(path.with_suffix(".lock"), mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("images: another process prepares them", style="dim")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def made_once(name: str, shape: tuple[int, ...], fill: Fill, again: Again) -> Stored | None:
    """The images kept by this name, which are made (see ``write``) where there are none; None where they cannot be
    kept."""
    place = folder()
    if place is None:
        return None
    path = place / f"{name}.npy"
    try:
        with alone(path):
            found = opened(path, again)
            if found is None:
                write(path, shape, fill, "making")
                found = opened(path, again)
            return found
    except OSError as error:
        say(f"images: not kept, {error.strerror or error} in {place}", style="yellow")
        return None


def write(path: Path, shape: tuple[int, ...], fill: Fill, how: str = "decoding", of: str = "") -> None:
    """Makes the file of images: ``fill(put)`` calls ``put(row, pixels)`` for each, in any order and thread. ``of``:
    what they are, for a list of what is kept.

    Raises OSError where it finds no room on the disk.
    """
    size = int(np.prod(shape, dtype=np.int64))
    say(f"images: {how} {shape[0]:,} once, {size / 1e6:,.0f} MB, kept in {path}", style="dim")
    with replacing(path) as temporary:
        make_room(path.parent, size)
        with os.fdopen(open_new(temporary), "wb", buffering=0) as file:
            beginning = BytesIO()
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(beginning, header)  # type: ignore[arg-type]
            start, each, sums = beginning.tell(), size // shape[0], np.zeros(shape[0], "<u4")
            put(file.fileno(), 0, beginning.getvalue())

            def keep(row: int, pixels: np.ndarray) -> None:
                data = pixels.tobytes()
                sums[row] = zlib.crc32(data)
                put(file.fileno(), start + row * each, data)

            fill(keep)
            tail = sums.tobytes() + shape[0].to_bytes(8, "little")
            put(file.fileno(), start + size, tail + hashlib.sha256(beginning.getvalue() + tail).digest())
    describe(path, {"images": list(shape), "of": of})


def make_room(place: Path, need: int) -> None:
    """What was not used for a month is removed, then what was not used for the longest time until there is room; and
    what a killed process left. Raises OSError where that is not enough."""
    for partial in place.glob(f".partial-{NAME}.npy"):
        lock = FileLock(place / f"{partial.stem.removeprefix('.partial-')}.lock", mode=0o600)
        try:
            with lock.acquire(timeout=0):
                partial.unlink(missing_ok=True)
        except Timeout:
            pass  # being written
    files = {path: path.lstat() for kind in ("npy", "json") for path in place.glob(f"{NAME}.{kind}")}
    free = shutil.disk_usage(place).free
    if free + sum(stat.st_size for stat in files.values()) < need + SPARE:
        raise OSError(errno.ENOSPC, f"{need / 2**30:.1f} GiB are needed and {free / 2**30:.1f} are free", str(place))
    for path, stat in sorted(files.items(), key=lambda each: each[1].st_mtime):
        short = path.suffix == ".npy" and shutil.disk_usage(place).free < need + SPARE
        if short or time.time() - stat.st_mtime > MONTH:
            say(f"images: {path} is removed, {stat.st_size / 1e6:,.0f} MB", style="dim")
            path.unlink(missing_ok=True)
            if path.suffix == ".npy":
                forget(path)


def remembered(name: str, made: Callable[[], Any]) -> Any:
    """What ``made()`` returned when it was first asked for by this name, as JSON."""
    place = folder()
    if place is None:
        return made()
    path = place / f"{name}.json"
    try:
        with alone(path):
            if path.is_symlink() or path.exists():
                with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
                    os.utime(file.fileno())
                    kept = parsed(file.read())
                if isinstance(kept, list) and len(kept) == 2 and kept[0] == content_hash(kept[1]):
                    return kept[1]
                say(f"images: {path} is damaged, and is made again", style="yellow")
            found = made()
            with replacing(path) as temporary, os.fdopen(open_new(temporary), "w") as text:
                text.write(json.dumps([content_hash(found), found]))  # faster than dump
            return found
    except OSError as error:
        say(f"images: {path} cannot be kept ({error.strerror or error})", style="yellow")
        return made()
