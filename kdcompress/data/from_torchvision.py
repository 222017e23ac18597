"""Fashion-MNIST, MNIST, CIFAR-10 and CIFAR-100: found on the machine, or downloaded by torchvision."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import pickle
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import numpy as np

from kdcompress.data.source import default_root, one_line, sources
from kdcompress.data.splits import Found, Raw, Split
from kdcompress.errors import UsageError
from kdcompress.recipe import Data

SYSTEM = Path("/usr/share/datasets")
TIMEOUT = 10.0  # seconds without an answer
MOST_BYTES = 2**30  # of an unpacked file


class TorchvisionSource:
    """A data set that torchvision can download.

    ``files`` are looked for in ``folders`` below each root; a download goes to ``folders[0]``.
    """

    files: tuple[str, ...]
    suffixes: tuple[str, ...] = ("",)
    archive: str | None = None  # a file in the root that torchvision can unpack instead of downloading it

    def __init__(
        self,
        name: str,
        dataset: str,
        folders: tuple[str, ...],
        page: str,
        licence: str | None = None,
        package: str | None = None,
    ):
        self.name, self.dataset, self.folders, self.page = name, dataset, folders, page
        self.licence, self.package = licence, package
        sources.register(name)(self)

    def find(self, data: Data) -> Found:
        tried: list[str] = []
        for folder in self.candidates(data):
            missing = self.missing(folder)
            if not missing:
                return Found(str(folder), True, tuple(tried))
            partly = len(missing) < len(self.files)
            tried.append(f"{folder}: " + (f"incomplete, no {', '.join(missing)}" if partly else "not there"))
        return Found(f"torchvision's download into {self.root(data) / self.folders[0]}", False, tuple(tried))

    def read(self, data: Data) -> Raw:
        found = self.find(data)
        if found.ready:
            return self.read_folder(Path(found.origin))
        root = self.root(data)
        try:
            folder = self.download(root)
        except (OSError, RuntimeError) as error:
            raise self.unavailable([*found.tried, f"{found.origin}: {one_line(error)}"], root) from error
        return self.read_folder(folder)

    def root(self, data: Data) -> Path:
        return (data.root or default_root()).expanduser()

    def candidates(self, data: Data) -> list[Path]:
        """The folders that may hold the files, in the order they are looked at."""
        root = self.root(data)
        own = [root, *(root / folder for folder in self.folders)] if data.root else []
        return list(dict.fromkeys([*own, *(default_root().expanduser() / f for f in self.folders), SYSTEM / self.name]))

    def file(self, folder: Path, name: str) -> Path | None:
        """The file ``name`` of a folder, compressed or not; None if it is not there."""
        paths = (folder / (name + suffix) for suffix in self.suffixes)
        return next((path for path in paths if path.is_file()), None)

    def paths(self, folder: Path) -> list[Path]:
        """The files of a folder that has them all, in the order of ``files``."""
        return [path for name in self.files if (path := self.file(folder, name)) is not None]

    def missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if self.file(folder, name) is None]

    def unavailable(self, tried: list[str], root: Path) -> UsageError:
        ways = [f"`python -m kdcompress.data.fetch {self.name} --root {root}`"]
        if self.package:
            ways.append(f"`apt-get install {self.package}` on Debian and Ubuntu")
        what = self.archive or "the files"
        ways.append(f"put {what} of {self.page} into {root if self.archive else root / self.folders[0]}")
        return UsageError(
            f"The data set {self.name} is not on this machine and could not be downloaded.",
            got="".join(f"\n    - {line}" for line in tried),
            hint="; or ".join(ways),
        )

    def download(self, root: Path) -> Path:
        """torchvision's download, checked and then moved into place. Returns the folder.

        Raises OSError or RuntimeError when the network, the site or the disk fails.
        """
        import torchvision

        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            if self.archive and (root / self.archive).is_file():
                shutil.copy(root / self.archive, temporary)
            try:
                with network_timeout(TIMEOUT):
                    getattr(torchvision.datasets, self.dataset)(temporary, download=True)
            except HTTPException as error:
                raise RuntimeError(f"the site's answer is broken: {one_line(error)}") from error
            return self.install(Path(temporary) / self.folders[-1], root)

    def install(self, unpacked: Path, root: Path) -> Path:
        """Moves the files of a folder, once they are shown to be whole, to their place below ``root``.

        Raises RuntimeError where files are missing and UsageError where they are broken.
        """
        if missing := self.missing(unpacked):
            raise RuntimeError(f"it has no {', '.join(missing)}")
        self.read_folder(unpacked)
        folder = root / self.folders[0]
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.paths(unpacked):
            if not (folder / file.name).exists():  # what a user has is not overwritten
                os.replace(file, folder / file.name)
        return folder

    def read_folder(self, folder: Path) -> Raw:
        """The training and test images of a folder. Raises UsageError that names a broken file."""
        raise NotImplementedError


class IdxSource(TorchvisionSource):
    """Four IDX files, gzipped or not."""

    files = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    suffixes = (".gz", "")

    def __init__(self, labels: tuple[str, ...], **rest):
        super().__init__(**rest)
        self.labels = labels

    def read_folder(self, folder: Path) -> Raw:
        splits = []
        paths = self.paths(folder)
        for images, labels in (paths[:2], paths[2:]):
            pixels, classes = read_idx(images, 3), read_idx(labels, 1)
            if len(pixels) != len(classes):
                raise UsageError(
                    "The files of images and of labels do not belong together.",
                    where=f"{images}, {labels}",
                    got=f"{len(pixels)} images, {len(classes)} labels",
                )
            splits.append(checked(pixels[..., None], classes, len(self.labels), labels))
        return Raw(self.labels, splits[0], None, splits[1], str(folder), self.licence)


class CifarSource(TorchvisionSource):
    """Pickled batches. They are unpickled only once their checksums are those that torchvision knows."""

    def __init__(self, files: tuple[str, ...], archive: str, **rest):
        super().__init__(**rest)
        self.files, self.archive = files, archive

    def read_folder(self, folder: Path) -> Raw:
        import torchvision

        dataset = getattr(torchvision.datasets, self.dataset)
        train = [self.batch(folder, name, md5) for name, md5 in dataset.train_list]
        test = [self.batch(folder, name, md5) for name, md5 in dataset.test_list]
        meta = unpickle(folder / dataset.meta["filename"], dataset.meta["md5"])
        labels = tuple(meta[dataset.meta["key"]])
        splits = []
        for batches in (train, test):
            images, classes = (np.concatenate(parts) for parts in zip(*batches, strict=True))
            splits.append(checked(images, classes, len(labels), folder))
        return Raw(labels, splits[0], None, splits[1], str(folder), self.licence)

    def batch(self, folder: Path, name: str, md5: str) -> tuple[np.ndarray, np.ndarray]:
        batch = unpickle(folder / name, md5)
        labels = batch["labels"] if "labels" in batch else batch["fine_labels"]
        pixels = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32)
        return pixels.transpose(0, 2, 3, 1), np.asarray(labels)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file, gzipped if its name ends with .gz; read-only.

    Raises UsageError for a file that cannot be unpacked, is not IDX of bytes with so many dimensions,
    is shorter or longer than its header says, or is empty.
    """
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))  # 8: unsigned bytes
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(header)
            if len(start) < header:
                raise broken(path, f"{len(start)} bytes", f"a header of {header} bytes")
            if start[:4] != magic:
                raise broken(path, f"magic number {start[:4].hex()}", magic.hex())
            shape = np.frombuffer(start, ">i4", dimensions, 4).tolist()
            size, said = math.prod(shape), " x ".join(map(str, shape))
            if min(shape) <= 0:
                raise broken(path, f"an empty array, {said}")
            if size > MOST_BYTES:
                raise broken(path, f"{said}, more than a file of these data sets holds", f"{MOST_BYTES:,} bytes")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise broken(path, one_line(error)) from error
    if len(data) != size:
        got = f"{len(data)} bytes after the header" if len(data) < size else f"more than {size} bytes after the header"
        raise broken(path, got, f"{said} as it says")
    return np.frombuffer(data, np.uint8).reshape(shape)


def checked(images: np.ndarray, labels: np.ndarray, classes: int, where: Path) -> Split:
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(
            "A label is out of range.",
            where=where,
            got=f"{labels.min()} to {labels.max()}",
            allowed=f"0 to {classes - 1}",
        )
    return Split(np.array(images, order="C"), labels)


def unpickle(path: Path, md5: str) -> dict:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise broken(path, one_line(error)) from error
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != md5:
        raise broken(path, f"md5 {got}", f"md5 {md5}")
    return pickle.loads(content, encoding="latin1")


def broken(path: Path, got: object, allowed: object = None) -> UsageError:
    return UsageError(
        "A file of the data set is broken.",
        where=path,
        got=got,
        allowed=allowed,
        hint="delete it and get the data set again",
    )


@contextmanager
def network_timeout(seconds: float) -> Iterator[None]:
    """Connections opened inside give up after so many seconds without an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


IdxSource(
    name="fashion-mnist",
    dataset="FashionMNIST",
    folders=("fashion-mnist", "FashionMNIST/raw"),
    labels=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    page="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    package="dataset-fashion-mnist",
)
IdxSource(
    name="mnist",
    dataset="MNIST",
    folders=("mnist", "MNIST/raw"),
    labels=tuple("0123456789"),
    page="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
)
CifarSource(
    name="cifar10",
    dataset="CIFAR10",
    folders=("cifar-10-batches-py",),
    archive="cifar-10-python.tar.gz",
    files=(*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"),
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
)
CifarSource(
    name="cifar100",
    dataset="CIFAR100",
    folders=("cifar-100-python",),
    archive="cifar-100-python.tar.gz",
    files=("train", "test", "meta"),
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
)
