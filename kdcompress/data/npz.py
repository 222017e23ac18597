"""Arrays of a .npz file that anybody may have made: each is looked at before it is believed, and not loaded but mapped
where the file is not compressed, as ``numpy.savez`` writes it."""

from __future__ import annotations

import mmap
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.errors import UsageError
from kdcompress.untrusted import WRONG, existing

WHAT = "This is not a file of answers, or it is damaged."
MOST_PACKED = 4 << 30  # bytes of a compressed array, which has to fit into memory
LONGEST_HEADER = 10_000
BLOCK = 1 << 24
BROKEN = (*WRONG, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What goes wrong in reading the file is a UsageError."""
    try:
        yield
    except BROKEN as error:
        got = f"{type(error).__name__}: {error}"
        raise UsageError(WHAT, where=path, got=got, hint="get it again, or make it again") from error


def arrays(path: Path, known: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Name -> array, of those in the file; ``known``: the names it may have, and the kinds of numpy types of each, such
    as "fiu". Text is of fixed width; nothing is unpickled. The checksums of all are checked.

    Raises UsageError for anything else.
    """
    if not existing(path).is_file():
        raise UsageError(WHAT, where=path, got="a folder")
    found: dict[str, np.ndarray] = {}
    with told(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name not in known or name in found or entry.filename == name:
                listed = ", ".join(known)
                raise UsageError(WHAT, where=path, got=f"an entry {entry.filename!r}", allowed=f"each once: {listed}")
            if entry.flag_bits & 1:
                raise ValueError(f"{name} is encrypted")
            array = _stored(memory, entry) if entry.compress_type == zipfile.ZIP_STORED else _packed(archive, entry)
            if array.dtype.kind not in known[name]:
                raise UsageError(
                    WHAT, where=path, got=f"{name} of type {array.dtype}", allowed=f"types of kind {known[name]!r}"
                )
            found[name] = array
    return found


def _stored(memory: mmap.mmap, entry: zipfile.ZipInfo) -> np.ndarray:
    """On the file itself."""
    head = memory[entry.header_offset : entry.header_offset + 30]
    if len(head) < 30 or head[:4] != b"PK\3\4":
        raise ValueError(f"{entry.filename} is not where the file says")
    start = entry.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if entry.compress_size != entry.file_size or start + entry.file_size > len(memory):
        raise ValueError(f"{entry.filename} is cut off")
    view, sum = memoryview(memory)[start : start + entry.file_size], 0
    for at in range(0, len(view), BLOCK):
        sum = zlib.crc32(view[at : at + BLOCK], sum)
    if sum != entry.CRC:
        raise ValueError(f"the checksum of {entry.filename} is not that of its content")
    return _array(view, entry.filename)


def _packed(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Unpacked into memory, no more than it says of itself."""
    if entry.file_size > MOST_PACKED:
        raise ValueError(f"{entry.filename} is {entry.file_size:,} bytes, compressed: save it with numpy.savez")
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise ValueError(f"{entry.filename} is not as large as it says")
    return _array(memoryview(content), entry.filename)


def _array(content: memoryview, name: str) -> np.ndarray:
    header = BytesIO(bytes(content[: LONGEST_HEADER + 16]))
    version = np.lib.format.read_magic(header)
    read: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} has a format of version {version}")
    shape, fortran, dtype = read(header, max_header_size=LONGEST_HEADER)
    if dtype.hasobject or dtype.fields or not dtype.itemsize:
        raise ValueError(f"{name} holds objects")
    data = content[header.tell() :]
    if len(data) != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise ValueError(f"{name} is not as large as its header says")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
