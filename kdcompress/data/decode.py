"""Image files -> uint8 [N, H, W, C]: decoded in threads, once, and kept (kept.py).

JPEGs are decoded by torchvision, whose pixels are those of Pillow and which is faster, other files by Pillow. A resize
is torchvision's, bilinear and antialiased: within rounding Pillow's (``benchmarks/input.py --decoders``).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from threading import Condition
from typing import IO, NamedTuple, TypeVar

import numpy as np

from kdcompress.console import say
from kdcompress.data import image, kept
from kdcompress.data.fit import GREY, Fit, Size, frame_of, placed
from kdcompress.data.image import MOST_PIXELS, Header, header
from kdcompress.data.source import SHOWN, one_line
from kdcompress.data.splits import Listed, Raw
from kdcompress.errors import UsageError, some

T = TypeVar("T")
U = TypeVar("U")
AT_ONCE = 4096  # images that wait for a thread
SAMPLED = 4096  # files
PART = 4096  # bytes
MOST_BYTES = 2**30  # of an image's file
EACH = 2**24  # pixels that a thread may decode without a look at the others


class File(NamedTuple):
    """An image: a file, or a part of one that has a name of its own."""

    path: Path
    name: str = ""
    offset: int = 0
    size: int = 0

    def open(self) -> IO[bytes]:
        """Raises ValueError for more bytes than any image has."""
        file = self.path.open("rb")
        if (size := self.size if self.name else os.fstat(file.fileno()).st_size) > MOST_BYTES:
            file.close()
            raise ValueError(f"{size / 2**30:,.1f} GiB, where {MOST_BYTES / 2**30:.0f} is the most for an image")
        if not self.name:
            return file
        with file:
            file.seek(self.offset)
            return BytesIO(file.read(self.size))

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.name else str(self.path)


def read_listed(found: Listed, size: int | Size | None, fit: Fit | None = None) -> Raw:
    """The files of a folder with their pixels. Raises UsageError as ``read_images`` does."""
    return found.raw(read_images([File(path) for path in found.paths], size, Path(found.origin), fit or "crop"))


def read_images(files: list[File], size: int | Size | None, root: Path, fit: Fit = "crop") -> kept.Images:
    """The files' pixels, uint8 [N, H, W, C]; C is 1 where all are grey, else 3. Where ``size`` is given they become so
    large as ``fit`` says. Read from the file of an earlier start, or decoded and kept.

    Raises UsageError that names every file that cannot be decoded, for sizes that differ while ``size`` is None, and
    for more pixels than the disk, and then the machine's memory, can hold.
    """
    place = kept.folder()
    if place is not None:

        def again(row: int, shape: tuple[int, ...]) -> np.ndarray:
            header = read_header(files[row])
            return decode(files[row], shape, isinstance(header, Header) and header.jpeg, fit)

        try:
            path = place / f"{identity(files, size if fit == 'crop' else (size, fit), root)}.npy"
            with kept.alone(path):
                found = kept.opened(path, again)
                if found is None:
                    headers, shape = look(files, size, root)
                    kept.write(path, shape, lambda put: decode_all(files, headers, shape, root, put, fit), of=str(root))
                    found = kept.opened(path, again)
                if found is not None:
                    return found
        except OSError as error:
            say(f"images: not kept, {error.strerror or error} in {place}", style="yellow")
    headers, shape = look(files, size, root)
    images = allocate(shape, root)
    decode_all(files, headers, shape, root, images.__setitem__, fit)
    return images


def identity(files: list[File], size: object, root: Path) -> str:
    """The hash of all that decides the pixels: where the files are, their names, sizes, times of change and inodes,
    what decodes them, and samples of their contents: the beginning, middle and end of each, or of ``SAMPLED`` of them
    where there are more."""
    paths = list(dict.fromkeys(file.path for file in files))
    stats = {path: path.stat() for path in paths}
    digest = hashlib.sha256(
        repr(("images", 2, size, str(root.resolve()), version("pillow"), version("torchvision"))).encode()
    )
    for file in files:
        found, path = stats[file.path], str(file.path).removeprefix(str(root))
        facts = (path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, *file[1:])
        digest.update(repr(facts).encode())
    for part in in_threads(sample, paths[:: -(-len(paths) // SAMPLED) or 1]):
        digest.update(part)
    return digest.hexdigest()


def sample(path: Path) -> bytes:
    """The hash of a file's beginning, middle and end; of nothing where it cannot be read, which its decoder tells."""
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= 3 * PART:
                digest.update(file.read(3 * PART))
            else:
                for offset in (0, size // 2, size - PART):
                    digest.update(os.pread(file.fileno(), PART, offset))
    except OSError:
        pass
    return digest.digest()


def look(files: list[File], size: int | Size | None, root: Path) -> tuple[list[Header], tuple[int, ...]]:
    """The headers of the files, and the shape of all their pixels."""
    headers = list(in_threads(read_header, files))
    good = [header for header in headers if isinstance(header, Header)]
    sizes = Counter(header[:2] for header in good)
    if size is None and len(sizes) > 1:
        found = [f"{width} x {height} ({count})" for (width, height), count in sizes.most_common()]
        raise UsageError(
            "The images differ in size.",
            where=root,
            got=some(found),
            hint="set data.size to the side in pixels that they are to be resized to",
        )
    if not good:
        raise broken_files(dict(zip(files, map(str, headers))), root)
    height, width = frame_of(size) if size else next(iter(sizes))[::-1]
    # a file without a header is named when it is decoded, with all others that are broken
    known = [header if isinstance(header, Header) else Header(0, 0, False, False) for header in headers]
    return known, (len(files), height, width, 1 if all(header.grey for header in good) else 3)


def read_header(file: File) -> Header | str:
    """What the header says, or why the file cannot be used."""
    try:
        with file.open() as opened:
            return header(opened)
    except Exception as error:  # Pillow's readers raise many kinds for a broken file
        return one_line(error)


def decode_all(
    files: list[File],
    headers: list[Header],
    shape: tuple[int, ...],
    root: Path,
    put: Callable[[int, np.ndarray], None],
    fit: Fit,
) -> None:
    room = Room(max(MOST_PIXELS, EACH * (os.cpu_count() or 1)))
    if any(header.jpeg or (header.height, header.width) != shape[1:3] for header in headers):
        import_module("torchvision.transforms.v2")  # by this thread: several that import its parts at once fail

    def one(row: int) -> str | None:
        try:
            with room.of(headers[row].width * headers[row].height):
                pixels = decode(files[row], shape[1:], headers[row].jpeg, fit)
        except Exception as error:  # as above
            return one_line(error)
        put(row, pixels)
        return None

    reasons = in_threads(one, range(len(files)))
    broken = {file: reason for file, reason in zip(files, reasons, strict=True) if reason}
    if broken:
        raise broken_files(broken, root)


class Room:
    """So many pixels are decoded at a time, by however many threads: large images wait for each other."""

    def __init__(self, pixels: int):
        self.free, self.changed = pixels, Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.free += pixels
                self.changed.notify_all()


def decode(file: File, shape: tuple[int, ...], jpeg: bool, fit: Fit = "crop") -> np.ndarray:
    """A file's pixels, uint8 of ``shape`` [H, W, C]; raises what its decoder raises."""
    height, width, channels = shape
    with file.open() as opened:
        data = opened.read()
    pixels = decode_jpeg(data, channels) if jpeg else None
    if pixels is None:
        pixels = image.pixels(data, shape, fit)
    return pixels if pixels.shape == shape else resized(pixels, (height, width), fit)


def decode_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """uint8 [H, W, C]; None where torchvision cannot: Pillow will, or says why not."""
    import torch
    from torchvision import io

    mode = io.ImageReadMode.GRAY if channels == 1 else io.ImageReadMode.RGB
    try:
        pixels = io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode, apply_exif_orientation=True)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).numpy()


def resized(pixels: np.ndarray, size: int | Size, fit: Fit = "crop") -> np.ndarray:
    """uint8 [H, W, C] as an image of another size (fit.py), its bars grey: uint8 [*size, C]."""
    import torch
    from torchvision.transforms.v2 import functional

    frame = frame_of(size)
    height, width = pixels.shape[:2]
    _, resized, (top, left), _ = placed((height, width), frame, fit)
    found = functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), list(resized), antialias=True)
    part = found.permute(1, 2, 0).numpy()[max(-top, 0) :, max(-left, 0) :][: frame[0], : frame[1]]
    if part.shape[:2] == frame:
        return part
    made = np.full((*frame, pixels.shape[2]), GREY, np.uint8)
    made[max(top, 0) :, max(left, 0) :][: part.shape[0], : part.shape[1]] = part
    return made


def in_threads(function: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """function(item) of each, in their order."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(items), AT_ONCE):
            yield from pool.map(function, items[start : start + AT_ONCE])


def allocate(shape: tuple[int, ...], root: Path) -> np.ndarray:
    need = int(np.prod(shape, dtype=np.int64))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    if memory and need > 0.8 * memory:
        raise UsageError(
            "The images do not fit into this machine's memory.",
            where=root,
            got=f"{need / 2**30:.1f} GiB, {' x '.join(map(str, shape))}",
            allowed=f"{0.8 * memory / 2**30:.1f} GiB",
            hint="set KDCOMPRESS_IMAGE_CACHE to a folder on a disk with room, or data.size to a smaller side",
        )
    return np.empty(shape, np.uint8)


def broken_files(broken: Mapping[File, str] | Mapping[Path, str], root: Path | str) -> UsageError:
    count = "1 image" if len(broken) == 1 else f"{len(broken)} images"
    return UsageError(f"{count} cannot be read.", where=root, got=reasons(broken), hint="repair or remove them")


def reasons(broken: Mapping[File, str] | Mapping[Path, str]) -> str:
    """Of some of the files, a line each."""
    lines = [f"\n    - {file}: {reason}" for file, reason in broken.items()]
    more = [f"\n    - and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "".join(lines[:SHOWN] + more)
