"""What `kdcompress sensitivity` measured of a target's layers, kept in the run's folder: one ranking for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcompress.artifact import kept_json
from kdcompress.export.formats import Target

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


def measured_ranking(folder: Path, target: Target, parent: str) -> list[str] | None:
    """The layers of the network whose fp32 file has the hash ``parent``, those that cost most first; None where they
    were not measured for this target as it is."""
    found = kept_json(folder / f"{target.name}.json")
    if not isinstance(found, dict) or found.get("parent") != parent or found.get("target") != described(target):
        return None
    rows = found.get("layers")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("layer"), str) for row in rows
    ):
        return None
    return [row["layer"] for row in rows if row.get("why") is None]
