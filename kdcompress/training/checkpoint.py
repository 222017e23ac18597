"""The state of a training in one file, replaced in one step: whole or not there."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from kdcompress.artifact import replacing
from kdcompress.errors import KDCompressError


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Raises OSError where it cannot be written; what was saved before is kept."""
    buffer = io.BytesIO()  # torch.save's own writer hides why a file could not be written
    torch.save(state, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state last saved, or None where nothing has been saved yet.

    Raises KDCompressError for a file that is damaged."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch looks at no checksum
            if damaged := archive.testzip():
                raise RuntimeError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise KDCompressError(
            "The training's checkpoint cannot be read.",
            where=path,
            got=str(error).splitlines()[0],
            hint="start this training again with --force teacher or --force student",
        ) from error
