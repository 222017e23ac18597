"""``artifacts/`` of a run folder: a copy of each file that the run made, under plain names, and its record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kdcompress.artifact import copy_to, remove, replacing, sha256
from kdcompress.errors import UsageError
from kdcompress.ours import Ours
from kdcompress.pipelines.runs import STEPS

FOLDER = "artifacts"


def check(folder: Path, stems: Iterable[str]) -> None:
    """Raises UsageError where something of somebody else's has the name of what a run will publish: one of ``stems``,
    with any suffix."""
    there, stems = folder / FOLDER, set(stems)
    if there.is_symlink() or (there.exists() and not there.is_dir()):
        hint = "move it, or choose another --output"
        raise UsageError("This is not a folder, and it is not overwritten.", where=there, hint=hint)
    wanted = [path.name for path in sorted(there.glob("*")) if any(f"{path.name}.".startswith(f"{s}.") for s in stems)]
    Ours(folder).refuse(_somebodys(folder, {name: list(folder.glob(f"{STEPS}/*/*/{name}")) for name in wanted}))


def publish(folder: Path, wanted: Mapping[str, Path]) -> None:
    """Copies ``wanted`` (name -> file or folder) and removes what an earlier publication put there and this one does
    not. Raises UsageError, before anything is touched, where something of somebody else's stands in the way."""
    ours, there = Ours(folder), folder / FOLDER
    there.mkdir(parents=True, exist_ok=True)
    hashes = {f"{FOLDER}/{name}": sha256(path) for name, path in wanted.items()}
    ours.refuse(_somebodys(folder, {name: [path] for name, path in wanted.items()}))
    ours.expect(hashes, changed=False)  # what was damaged there is made whole
    old = [name for name in ours.known() if name.startswith(f"{FOLDER}/") and name not in hashes]
    kept = ours.foreign(old)  # changed since: somebody's own now
    for name in old:
        if name not in kept:
            remove(folder / name)
    ours.forget(old)
    for name, path in wanted.items():
        if not (there / name).exists() or sha256(there / name) != hashes[f"{FOLDER}/{name}"]:
            with replacing(there / name) as temporary:
                copy_to(path, temporary)


def _somebodys(folder: Path, copies: Mapping[str, list[Path]]) -> list[str]:
    """What no publication put there, and folders of one in which there is more than in the copies of it."""
    ours, names = Ours(folder), {f"{FOLDER}/{name}": found for name, found in copies.items()}
    changed = [name for name in ours.foreign(names) if (folder / name).is_dir() and not (folder / name).is_symlink()]
    more = [name for name in changed if _files(folder / name) - set().union(*map(_files, names[name]))]
    return list(dict.fromkeys([*ours.foreign(names, changed=False), *more]))


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
