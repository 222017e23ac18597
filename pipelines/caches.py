"""What kdcompress keeps of the user's images and teachers: what there is, and its removal."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import clean_name, open_new, private_folder, replacing, sha256
from kdcompress.data import kept
from kdcompress.data.about import describe, described, forget
from kdcompress.data.given import GivenAnswers, read_answers
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.ours import Ours
from kdcompress.training import answers
from kdcompress.untrusted import existing, plain

KINDS = ("images", "facts", "answers", "imported")
DAY = 86_400.0  # seconds
HASH = "[0-9a-f]" * 64


@dataclass(frozen=True)
class Entry:
    """Something that is kept. ``used``: when it was last, in seconds since 1970."""

    kind: str
    name: str
    what: str
    paths: tuple[Path, ...]
    bytes: int  # on the disk
    used: float

    def row(self) -> dict[str, Any]:
        days = max(0.0, time.time() - self.used) / DAY
        size = f"{self.bytes / 1e6:,.1f} MB"
        return {"kept": self.kind, "name": self.name, "what": self.what, "size": size, "last used": ago(days)}

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "paths": [str(path) for path in self.paths]}


def ago(days: float) -> str:
    return "today" if days < 1 else f"{days:.0f} day{'s' * (days >= 1.5)} ago"


def entries(kinds: Iterable[str] = KINDS) -> list[Entry]:
    """All that is there, the longest unused first. Only regular files of this user's with the names that kdcompress
    gives are looked at."""
    finders: dict[str, Callable[[], list[Entry]]] = {
        "images": _images,
        "facts": _facts,
        "answers": _answers,
        "imported": _imported,
    }
    found = [entry for kind in KINDS if kind in set(kinds) for entry in finders[kind]()]
    return sorted(found, key=lambda entry: entry.used)


def _entry(kind: str, name: str, what: str, paths: Sequence[Path]) -> Entry:
    stats = [path.lstat() for path in paths]
    size = sum(stat.st_blocks * 512 for stat in stats)
    return Entry(kind, name, what, tuple(paths), size, max(stat.st_mtime for stat in stats))


def _mine(folder: Path | None, pattern: str) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    there = [path for path in sorted(folder.glob(pattern)) if path.is_file() and not path.is_symlink()]
    return [path for path in there if path.lstat().st_uid == os.geteuid()]


def _images() -> list[Entry]:
    found = []
    for path in _mine(kept.folder(), f"{HASH}.npy"):
        about = described(path)
        shape = " x ".join(f"{side:,}" for side in about.get("images", ()) if isinstance(side, int))
        what = " of ".join(filter(None, [shape or "images", plain(about.get("of", ""))]))
        found.append(_entry("images", path.stem[:12], what, [path]))
    return found


def _facts() -> list[Entry]:
    paths = _mine(kept.folder(), f"{HASH}.json")
    return [_entry("facts", "", f"hashes and sizes of files, {len(paths):,} times", paths)] if paths else []


def _answers() -> list[Entry]:
    found = []
    for path in _mine(answers.folder(), answers.NAME):
        about = described(path)
        found.append(_entry("answers", path.stem[:12], _of_answers(path, about) if about else "answers", [path]))
    return found


def _of_answers(path: Path, about: dict[str, Any]) -> str:
    """ "VGG on fashion-mnist, 10,000 x 16 views of 10 classes, the 3 largest, 37 % known"."""
    images, views, classes, top = (about.get(key) for key in ("images", "views", "classes", "top"))
    if not isinstance(images, int) or not isinstance(views, int):
        return "answers"
    parts = [f"{plain(about.get('teacher'))} on {plain(about.get('data'))}, {images:,} x {views:,} views"]
    parts[0] += f" of {classes:,} classes" if isinstance(classes, int) else ""
    parts += [f"the {top} largest"] if top else []
    with path.open("rb") as file:
        sums = np.frombuffer(file.read(4 * images * views), "<u4")
    return ", ".join([*parts, f"{100 * np.count_nonzero(sums) / max(1, images * views):.3g} % known"])


def _imported() -> list[Entry]:
    ours, found = Ours(imports()), []
    for path in _mine(imports(), "*.npz"):
        if not ours.foreign([path.name], changed=False):
            found.append(_entry("imported", path.stem, plain(described(path).get("what", "answers")), [path]))
    return found


# Imported


def imports() -> Path:
    """The folder of the answers of others."""
    return answers.folder() / "imported"


def imported() -> dict[str, Path]:
    """By their names."""
    return {path.stem: path for path in _mine(imports(), "*.npz")}


def import_answers(path: Path, name: str | None = None) -> tuple[str, GivenAnswers]:
    """Keeps a copy of a file of answers under ``name``, or the file's own. Raises UsageError for what is none, and
    where other answers have that name."""
    path = existing(path.expanduser())
    if path.suffix != ".npz":
        raise UsageError("Only .npz files are imported.", where=path, hint="name it in the recipe: teacher.answers")
    given, digest = read_answers(path, ()), sha256(path)
    name = clean_name(name or path.stem)
    copy, ours = imports() / f"{name}.npz", Ours(private_folder(imports()))
    if copy.exists() and sha256(copy) != digest:
        hint = f"give another --name, or remove it: kdcompress cache prune --name {name}"
        raise UsageError("Other answers are kept by this name.", where=copy, hint=hint)
    if not copy.exists():
        ours.expect({copy.name: digest})
        with replacing(copy) as temporary, path.open("rb") as source, os.fdopen(open_new(temporary), "wb") as file:
            shutil.copyfileobj(source, file)
        if sha256(copy) != digest:
            copy.unlink()
            raise KDCompressError("The file changed while it was read.", where=path, hint="try again")
        describe(copy, {"what": what(given)})
    return name, given


def what(given: GivenAnswers) -> str:
    """ "10,000 images x 16 views, 10 classes, the 3 largest, of vgg8 on fashion-mnist"."""
    parts = [
        f"{len(given.keys):,} images x {given.views:,} view{'s' * (given.views > 1)}",
        f"{given.classes:,} classes",
    ]
    top = given.arrays["classes"].shape[2] if "classes" in given.arrays else None
    parts += [f"the {top} largest"] if top else []
    teacher, data = (given.about.get(key) for key in ("teacher", "data"))
    parts += [f"of {plain(teacher)} on {plain(data)}"] if teacher else []
    return ", ".join(parts)


# Removed


def chosen(
    kinds: Sequence[str] = (),
    name: str | None = None,
    older_than: float | None = None,
    keep: float | None = None,
    all: bool = False,
) -> list[Entry]:
    """What would go, of these ``kinds`` (none: of all): with ``all`` everything, what was not used for ``older_than``
    days, what was not used for the longest time until at most ``keep`` bytes are left, what has this ``name`` (or
    begins so). Raises UsageError where none of these is said, or nothing has the name."""
    if not all and older_than is None and keep is None and name is None:
        raise UsageError(
            "Say what is to go.",
            allowed="--older-than DAYS, --keep GIB, --name NAME or --all",
            hint="kdcompress cache list shows what there is",
        )
    found = entries(kinds or KINDS)
    if name is not None:
        found = [entry for entry in found if entry.name and entry.name.startswith(name)]
        if not found:
            raise UsageError("Nothing of this name is kept.", where="--name", got=name, hint="kdcompress cache list")
    going = found if all or (name is not None and older_than is None and keep is None) else []
    if older_than is not None:
        going = [entry for entry in found if time.time() - entry.used > older_than * DAY]
    if keep is not None:
        left = sum(entry.bytes for entry in found if entry not in going)
        for entry in [entry for entry in found if entry not in going]:
            if left <= keep:
                break
            going, left = [*going, entry], left - entry.bytes
    return going


def remove(going: Sequence[Entry]) -> int:
    """Removes these; bytes that are free then. A training that uses one goes on: its file is there until it ends."""
    freed = 0
    for entry in going:
        for path in entry.paths:
            if entry.kind == "imported":
                Ours(path.parent).forget([path.name])
            forget(path)
        freed += entry.bytes
    return freed
