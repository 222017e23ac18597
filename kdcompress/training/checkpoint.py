"""The state of a training in one file, replaced in one step: whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state last saved, or None where nothing has been saved yet."""
    if not path.is_file():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)
