"""What the agent says to the other side: lines that start with MARK, JSON behind it, and the result in a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MARK = "@kdcompress "


def say(message: dict[str, Any]) -> None:
    print("\n" + MARK + json.dumps(message, default=str), flush=True)


def heard(line: str) -> dict[str, Any] | None:
    """What a line says, where it is one of ``say``'s, and whole: a connection can drop in the middle of it."""
    if not line.startswith(MARK):
        return None
    try:
        found = json.loads(line[len(MARK) :])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def leave(folder: Path, answer: dict[str, Any]) -> None:
    """The result is there once it is whole."""
    partial = folder / "result.partial"
    partial.write_text(json.dumps(answer, default=str))
    os.replace(partial, folder / "result.json")
