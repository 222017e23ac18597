"""What `kdcompress sensitivity` measured of a target's layers, kept in the run's folder: one ranking for all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcompress.artifact import kept_json, write_text
from kdcompress.console import say
from kdcompress.errors import KDCompressError
from kdcompress.export.formats import Target
from kdcompress.report.write import finite

TABLES = "sensitivity"  # folder in that of the run


def described(target: Target) -> dict[str, Any]:
    """What of a target its layers' costs depend on."""
    return target.model_dump(mode="json", include={"name", "format", "precision", "runtime", "options"})


def cost(row: Mapping[str, Any]) -> tuple[float, float]:
    """What a layer's row is sorted by, largest cost first: the points that it loses where they are shown to be more
    than none, then the error of the outputs."""
    lost, snr = row.get("lost") or {}, row.get("snr_db")
    points = lost["points"] if lost.get("verdict") == "worse" else 0.0
    return -points, float("inf") if snr is None else snr


def keep(folder: Path, target: Target, table: Mapping[str, Any]) -> None:
    """Writes the table of a target into the folder, but not in place of one of more images. Raises KDCompressError."""
    there, path = _kept(folder, target, table["parent"], table["data"]), folder / f"{target.name}.json"
    if there is not None and there["images"] > table["images"]:
        return
    try:
        write_text(path, json.dumps(finite(table), indent=1) + "\n")
    except OSError as error:
        hint = "move away what is there; what was measured is kept"
        raise KDCompressError("The table cannot be kept.", where=path, got=error.strerror, hint=hint) from error


def measured_ranking(folder: Path, target: Target, parent: str, data: str, images: int) -> list[str] | None:
    """The layers of the network whose fp32 file has the hash ``parent``, those that cost most first; None where they
    were not measured for this target as it is, on all validation images, so many, of the source with the hash
    ``data``."""
    found = _kept(folder, target, parent, data)
    if found is None:
        return None
    if found["images"] != images:
        measured = f"{found['images']:,} of {images:,} validation images"
        say(f"{target.name}: the layers were ranked on {measured}, so that they are ranked anew", style="yellow")
        return None
    return [row["layer"] for row in found["layers"] if row.get("why") is None] or None


def _kept(folder: Path, target: Target, parent: str, data: str) -> dict[str, Any] | None:
    """The table in the folder; None where there is none of these, or it is damaged."""
    found = kept_json(folder / f"{target.name}.json")
    wanted = {"parent": parent, "data": data, "target": described(target)}
    if not isinstance(found, dict) or any(found.get(key) != value for key, value in wanted.items()):
        return None
    rows = found.get("layers")
    if not isinstance(found.get("images"), int) or not isinstance(rows, list):
        return None
    return found if all(isinstance(row, dict) and isinstance(row.get("layer"), str) for row in rows) else None
