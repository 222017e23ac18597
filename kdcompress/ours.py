"""What kdcompress wrote into a folder of the user's: nothing else that is there is overwritten or removed.

A list in the folder has the name and the hashes of each file: the one that stands there, and while it is replaced the
one that will. So a process that is killed in between leaves no file that seems to be somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdcompress.artifact import kept_json, sha256, write_text
from kdcompress.errors import UsageError, some

LIST = ".kdcompress.json"


class Ours:
    def __init__(self, folder: Path):
        self.folder = folder

    def known(self) -> dict[str, list[str]]:
        """name -> hashes. Of a run folder without a list, from before there were any: its pages and its recipe, and
        what its stages have a copy of."""
        listed = kept_json(self.folder / LIST)
        if isinstance(listed, dict):
            return {name: hashes for name, hashes in listed.items() if isinstance(hashes, list)}
        if not (self.folder / "stages").is_dir():
            return {}
        pages = [self.folder / "recipe.yaml", *self.folder.glob("report.*"), *self.folder.glob("compare.*")]
        found = {path.name: [sha256(path)] for path in pages if path.is_file()}
        for path in self.folder.glob("artifacts/*"):
            if any(sha256(copy) == sha256(path) for copy in self.folder.glob(f"stages/*/*/{path.name}")):
                found[f"artifacts/{path.name}"] = [sha256(path)]
        return found

    def foreign(self, names: Iterable[str], changed: bool = True) -> list[str]:
        """Those of ``names`` that are there, and are not as kdcompress wrote them: those that it never wrote, and with
        ``changed`` those that became others since."""
        known = self.known()
        there = [name for name in names if os.path.lexists(self.folder / name)]
        return [name for name in there if name not in known or (changed and not self._as(known[name], name))]

    def check(self, names: Iterable[str], changed: bool = True) -> None:
        """Raises UsageError where something of somebody else's stands where ``names`` are to be written."""
        self.refuse(self.foreign(names, changed))

    def refuse(self, found: list[str]) -> None:
        """Raises UsageError where any is somebody else's."""
        if found:
            raise UsageError(
                "Some files there were not written by kdcompress, or were changed since. They are not overwritten.",
                where=self.folder,
                got=some(found),
                hint="move or remove them, or choose another folder",
            )

    def write(self, name: str, text: str) -> Path:
        """Writes UTF-8. Raises UsageError as ``check`` does."""
        self.expect({name: hashlib.sha256(text.encode()).hexdigest()})
        return write_text(self.folder / name, text)

    def expect(self, hashes: Mapping[str, str], changed: bool = True) -> None:
        """Files of these hashes are about to be written. Raises UsageError as ``check`` does."""
        self.check(hashes, changed)
        known = self.known()
        for name, new in hashes.items():
            path = self.folder / name
            there = [sha256(path)] if path.exists() else []
            known[name] = list(dict.fromkeys([*there, new]))
        self._list(known)

    def forget(self, names: Iterable[str]) -> None:
        """They were removed."""
        gone = set(names)
        self._list({name: hashes for name, hashes in self.known().items() if name not in gone})

    def _as(self, hashes: list[str], name: str) -> bool:
        path = self.folder / name
        return bool(hashes) and not path.is_symlink() and sha256(path) in hashes

    def _list(self, known: Mapping[str, list[str]]) -> None:
        write_text(self.folder / LIST, json.dumps(known, indent=1))
