"""python -m kdcompress.data.fetch NAME --root DIR: gets a data set by whatever works on this machine."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from kdcompress.data.from_torchvision import SYSTEM, TorchvisionSource
from kdcompress.data.source import default_root, one_line, sources
from kdcompress.errors import KDCompressError, UsageError, ended
from kdcompress.recipe import Data

APT_TIMEOUT = 180.0  # seconds a command


def fetch(name: str, root: Path) -> Path:
    """The folder that holds the whole data set ``name``, after getting it where it is nowhere yet.

    Tried in turn: the places that a recipe with ``data.root: root`` looks at, torchvision's download, and
    the data set's Debian package, unpacked below ``root`` (no administrator is needed).
    Raises UsageError that names each attempt, and for files that are there and broken.
    """
    family = sources[name]
    if made_of := getattr(family, "made_of", None):
        return fetch(made_of, root)
    if not isinstance(family, TorchvisionSource):
        raise UsageError(f"The source {name} is a folder of your own: there is nothing to fetch.")
    found = family.find(Data.model_validate({"source": name, "root": root}))
    if found.ready:
        family.read_folder(Path(found.origin))
        return Path(found.origin)
    tried = list(found.tried)
    for how, get in (("torchvision's download", family.download), ("Debian's package", family_package(family))):
        try:
            return get(root)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            tried.append(f"{how}: {one_line(error)}")
    raise family.unavailable(tried, root)


def family_package(family: TorchvisionSource) -> Callable[[Path], Path]:
    def get(root: Path) -> Path:
        if family.package is None:
            raise RuntimeError("there is none")
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise RuntimeError("apt-get and dpkg-deb are not on this machine")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            folder = Path(temporary).resolve()  # the commands work in it
            package = download_package(family.package, folder)
            command("dpkg-deb", "-x", str(package), str(folder / "unpacked"), cwd=folder)
            return family.install(folder / "unpacked" / SYSTEM.relative_to("/") / family.name, root)

    return get


def download_package(package: str, folder: Path) -> Path:
    """Debian's package as a file in ``folder``; where the machine's lists do not name it, with lists of our own.

    Raises RuntimeError when apt-get fails twice.
    """
    try:
        command("apt-get", "download", package, cwd=folder)
    except RuntimeError as error:
        (folder / "lists/partial").mkdir(parents=True)
        (folder / "cache/archives/partial").mkdir(parents=True)
        own = ("-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache")
        try:
            command("apt-get", *own, "update", cwd=folder)
            command("apt-get", *own, "download", package, cwd=folder)
        except RuntimeError as second:
            raise RuntimeError(f"{error}; with fresh package lists: {second}") from second
    return next(folder.glob(f"{package}_*.deb"))


def command(*words: str, cwd: Path) -> None:
    options = ("-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")
    words = (words[0], *options, *words[1:]) if words[0] == "apt-get" else words
    run = subprocess.run(
        words,
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=APT_TIMEOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if line.startswith("E:")] or run.stderr.splitlines()
        raise RuntimeError(f"{words[0]} ended with {ended(run.returncode)}: {' '.join(errors)}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code. The folder of the files is printed on standard output."""
    parser = argparse.ArgumentParser(prog="python -m kdcompress.data.fetch", description=__doc__)
    parser.add_argument("name", help="fashion-mnist, mnist, cifar10 or cifar100")
    parser.add_argument("--root", type=Path, default=None, help="default: $KDCOMPRESS_DATA, or ./datasets")
    options = parser.parse_args(arguments)
    try:
        print(fetch(options.name, options.root or default_root()))
    except KDCompressError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
