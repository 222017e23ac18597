"""A file of teachers' answers: one for each view of each image, or none yet.

First a checksum (CRC-32) for each, 0 where the answer is not there, then the answers. The file's name is the hash of
all that decides them (see identity.py). Folder and files are the user's alone.

Answers are on the disk before their checksums, and nothing else is ever written: a killed process, or several that fill
one file at once, leave nothing that is wrong. An answer is there when it is what its checksum says, which is looked at
when a process reads it for the first time (about 0.5 us and 1 GB/s): a damaged one is computed again.
"""

from __future__ import annotations

import itertools
import mmap
import os
import zlib
from pathlib import Path

import numpy as np

from kdcompress.artifact import open_private, private_folder, user_cache
from kdcompress.console import say
from kdcompress.data.about import forget

SUFFIX = ".answers"
NAME = "[0-9a-f]" * 64 + SUFFIX  # of what is kept: nothing else in the folder is touched


def folder() -> Path:
    return Path(os.environ.get("KDCOMPRESS_TEACHER_CACHE") or user_cache() / "teachers")


class Answers:
    """A file of ``rows`` answers of ``width`` bytes each. Raises OSError where there can be none."""

    def __init__(self, path: Path, rows: int, width: int):
        self.path, self.rows, self.width = path, rows, width
        private_folder(path.parent)
        self.start = -(-4 * rows // mmap.PAGESIZE) * mmap.PAGESIZE
        size = self.start + rows * width
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        if (there := os.fstat(descriptor).st_size) not in (0, size):
            say(f"teacher's answers: {path} is damaged, {there:,} bytes of {size:,}, and is made again", style="yellow")
            os.close(descriptor)
            path.unlink(missing_ok=True)  # whoever has it open keeps it
            descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        self.file = os.fdopen(descriptor, "r+b", buffering=0)  # closed with this object
        os.truncate(descriptor, size)  # sparse: what is not written takes no place
        os.utime(descriptor)
        # Read through the map, written by pwrite: a write into a map of a full disk ends the process.
        memory = np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)
        self.sums, self.values = memory[: 4 * rows].view("<u4"), memory[self.start :].reshape(rows, width)
        self.sound = np.zeros(rows, bool)  # written by this process, or checked
        self.written = np.zeros(rows, bool)  # by this process, and without its checksum yet
        self.damaged = False

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Whether the answers ``rows`` are there and whole, bool [len(rows)]."""
        new = rows[~self.sound[rows]]
        new = new[self.sums[new] != 0]
        if len(new):
            self.sound[new] = self.sums[new] == _sums(new, self.values[new])
            if not self.damaged and not self.sound[new].all():
                self.damaged = True
                say(f"teacher's answers: {self.path} is damaged, what is wrong is computed again", style="yellow")
        return self.sound[rows]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [len(rows), width], a copy."""
        return self.values[rows]

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        for part in _runs(rows, order := np.argsort(rows, kind="stable")):
            self._put(self.start + int(rows[order[part.start]]) * self.width, values[order[part]].tobytes())
        self.written[rows] = self.sound[rows] = True

    def flush(self) -> None:
        """What was written gets its checksums, by which other processes and later ones know it."""
        rows = np.flatnonzero(self.written)
        if len(rows):
            os.fsync(self.file.fileno())
            sums = _sums(rows, self.values[rows])
            for part in _runs(rows, np.arange(len(rows))):
                self._put(4 * int(rows[part.start]), sums[part].tobytes())
            self.written[rows] = False

    def _put(self, offset: int, data: bytes) -> None:
        while data:  # a full disk takes a part before it raises
            done = os.pwrite(self.file.fileno(), data, offset)
            data, offset = data[done:], offset + done

    def bytes(self) -> int:
        """On the disk."""
        return os.fstat(self.file.fileno()).st_blocks * 512


def _sums(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The checksums of answers uint8 [N, width] in the rows int64 [N], each of its row and its bytes, uint32 [N]."""
    return np.array([zlib.crc32(value, row) or 1 for row, value in zip(rows.tolist(), values)], "<u4")


def _runs(rows: np.ndarray, order: np.ndarray) -> list[slice]:
    """Where in ``order``, which sorts ``rows``, numbers follow each other without a gap."""
    edges = np.flatnonzero(np.diff(rows[order]) != 1) + 1
    return [slice(a, b) for a, b in itertools.pairwise([0, *edges.tolist(), len(rows)])]


def make_room(limit: float, own: list[Path]) -> None:
    """Answers that were not used for the longest time are removed until the rest take ``limit`` bytes. A training that
    uses them now goes on: its file is there until it ends."""
    others = [(path, path.lstat()) for path in folder().glob(NAME) if path not in own]
    taken = sum(stat.st_blocks * 512 for _, stat in others)
    for path, stat in sorted(others, key=lambda each: each[1].st_mtime):
        if taken <= limit:
            return
        forget(path)
        taken -= stat.st_blocks * 512
