"""What a kept file is of, in a file beside it, for those who look at what is kept: nothing else depends on it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdcompress.artifact import kept_json, open_new, replacing

SUFFIX = ".about"


def describe(path: Path, facts: Mapping[str, Any]) -> None:
    """Says what the file at ``path`` is. Where that cannot be written, as when another process does, nothing does."""
    beside = path.with_suffix(SUFFIX)
    with suppress(OSError):
        if kept_json(beside) == facts:
            return
        with replacing(beside) as temporary, os.fdopen(open_new(temporary), "w", encoding="utf-8") as text:
            json.dump(facts, text)


def described(path: Path) -> dict[str, Any]:
    """What is said of the file at ``path``; nothing where there is no such file, or a damaged one."""
    try:
        found = kept_json(path.with_suffix(SUFFIX))
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}


def forget(path: Path) -> None:
    """Removes a kept file, and what says what it is."""
    path.unlink(missing_ok=True)
    path.with_suffix(SUFFIX).unlink(missing_ok=True)
