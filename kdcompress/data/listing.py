"""What a folder holds of a user's own: what systems and programs leave in it is passed over, and counted by kind."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from kdcompress.errors import UsageError

SYSTEM = {
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "__macosx", "__pycache__",
    "desktop.ini", "ehthumbs.db", "lost+found", "recycler", "system volume information", "thumbs.db",
}  # fmt: skip


class Passed:
    """What was passed over: how many of each kind, and the first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, Path] = {}

    def add(self, kind: str, path: Path) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, path)

    def merge(self, other: Passed) -> None:
        self.counts.update(other.counts)
        self.first = {**other.first, **self.first}

    def notes(self, root: Path) -> list[str]:
        """One line with the number and the first of each kind, where anything was."""
        kinds = [f"{kind} ({n:,}, {os.path.relpath(self.first[kind], root)})" for kind, n in self.counts.items()]
        return [f"passed over in {root}: {'; '.join(kinds)}"] if kinds else []


def foreign(name: str) -> str | None:
    """The kind of a file or folder that is not the user's own, by its name."""
    if name.startswith("._"):
        return "resource forks"
    if name.startswith("."):
        return "hidden files and folders"
    return "files and folders of systems" if name.casefold() in SYSTEM else None


def entries(folder: Path, passed: Passed) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted by name; links are followed, others added to ``passed``.

    Raises UsageError for a folder that cannot be read.
    """
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as scanned:
            found = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError("A folder cannot be read.", where=folder, got=error.strerror) from error
    for entry in found:
        path = folder / entry.name
        known = path if entry.is_symlink() else entry  # a path takes a link that turns in a circle for one that is not
        if kind := foreign(entry.name):
            passed.add(kind, path)
        elif known.is_dir():
            folders.append(path)
        elif known.is_file():
            files.append(path)
        else:
            passed.add("pipes, devices or sockets" if path.exists() else "links that lead nowhere", path)
    return folders, files


def files_below(folder: Path, passed: Passed) -> list[Path]:
    """The files at any depth, sorted by path. Each folder is read once, whatever links lead to it."""
    seen = {place(path) for path in folder.resolve().parents}  # a link up would never end
    found, waiting = [], [folder]
    while waiting:
        here = waiting.pop()
        if place(here) in seen:
            passed.add("links to folders that are read already", here)
            continue
        seen.add(place(here))
        folders, files = entries(here, passed)
        found += files
        waiting += reversed(folders)
    return sorted(found, key=Path.as_posix)


def place(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino
