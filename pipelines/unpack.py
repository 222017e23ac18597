"""A bundle's archive, unpacked into a temporary folder: plain files and folders of bounded size, and nothing beside
it."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kdcompress.errors import UsageError

MOST_BYTES = 4 * 2**30  # of all files, unpacked
MOST_ENTRIES = 10_000
AT_ONCE = 2**20  # bytes that are read in one go: a header that asks for more is none
GZIP = b"\x1f\x8b"
BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError, RecursionError)


class Forward(io.RawIOBase):
    """A file that is read once, from its beginning on, and gives no more than ``MOST_BYTES`` and what the headers of
    ``MOST_ENTRIES`` take. A seek goes forward, or back over one byte, as tarfile's do."""

    def __init__(self, file: io.BufferedIOBase):
        self.file, self.at, self.last, self.again = file, 0, b"", False

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= AT_ONCE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        if not size:
            return b""
        data = self.last + self.file.read(size - 1) if self.again else self.file.read(size)
        self.at, self.last, self.again = self.at + len(data), data[-1:], False
        if self.at > MOST_BYTES + 4096 * MOST_ENTRIES:
            raise tarfile.ReadError(f"more than {MOST_BYTES / 2**30:.0f} GiB")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < self.at - 1 or (offset < self.at and not self.last):
            raise tarfile.ReadError("its parts are not in their order")
        while offset > self.at and self.read(min(offset - self.at, AT_ONCE)):
            pass
        if offset < self.at:
            self.at, self.again = offset, True
        return self.at

    def tell(self) -> int:
        return self.at


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """The folder of the bundle in a .tar.gz or .tar, until the block ends. Raises UsageError for a file that is no such
    archive, and for one with links, paths that lead out of it, names that come twice, or too much in it."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            with archive.open("rb") as file:
                packed = file.read(len(GZIP)) == GZIP
                file.seek(0)
                with gzip.GzipFile(fileobj=file) if packed else file as content:
                    _unpack(content, folder)
        except BROKEN as error:
            raise UsageError(
                "This is not a bundle: the archive cannot be read.",
                where=archive,
                got=f"{type(error).__name__}: {error}",
                allowed="the folder or the .tar.gz that `kdcompress bundle` wrote",
                hint="get the archive again: it may be cut off",
            ) from error
        except UsageError as error:
            raise error.at(archive) from None
        parts = list(folder.iterdir())
        yield parts[0] if len(parts) == 1 and parts[0].is_dir() else folder


def _unpack(content: io.BufferedIOBase, folder: Path) -> None:
    left = MOST_BYTES
    with tarfile.open(fileobj=Forward(content), mode="r:") as tar:
        for number, entry in enumerate(tar):
            if wrong := _wrong(entry):
                raise UsageError("The archive has an entry that a bundle has not.", got=f"{entry.name}: {wrong}")
            left -= entry.size
            if left < 0 or number >= MOST_ENTRIES:
                allowed = f"{MOST_BYTES / 2**30:.0f} GiB in {MOST_ENTRIES:,} files"
                raise UsageError("The archive is larger than a bundle may be.", allowed=allowed)
            path = folder / entry.name
            try:
                (path if entry.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
                if not entry.isdir():
                    _write(tar, entry, path)
            except (FileExistsError, NotADirectoryError) as error:
                raise UsageError("The archive has two entries of one name.", got=entry.name) from error


def _wrong(entry: tarfile.TarInfo) -> str | None:
    if not (entry.isdir() or (entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse())):
        return "a link" if entry.issym() or entry.islnk() else "no plain file"
    parts = entry.name.split("/")
    if entry.name.startswith("/") or ".." in parts or "\\" in entry.name or ":" in entry.name:
        return "a path that leads out of it"
    if not entry.name.isprintable() or len(entry.name) > 1000 or max(len(part.encode()) for part in parts) > 255:
        return "no name for a file"
    return None


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(entry)
    assert source is not None
    with source, path.open("xb") as file:
        left = entry.size
        while left > 0:
            data = source.read(min(left, AT_ONCE))
            if not data:
                raise EOFError(f"it ends within {entry.name}")
            file.write(data)
            left -= len(data)
