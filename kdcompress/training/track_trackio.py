"""Trackio: in its folder on this machine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcompress.training.trackers import Tracker, trackers


@trackers.register("trackio")
class Trackio(Tracker):
    """In trackio's folder on this machine; a run is known by its name, so that gets a few letters."""

    def __init__(self, project: str, name: str, folder: Path, id: str | None, step: int | None):
        from accelerate.tracking import TrackioTracker

        self.id = id or f"{name}-{secrets.token_hex(2)}"
        options: dict[str, Any] = {"resume": "allow" if id else "never", "embed": False}
        self.run = TrackioTracker(project, name=self.id, auto_log_cpu=False, auto_log_gpu=False, **options)
        self.run.start()

    def settings(self, values: Mapping[str, Any], recipe: str) -> None:
        self.run.store_init_configuration({**values, "recipe": recipe})

    def finals(self, values: Mapping[str, float], pages: Sequence[Path]) -> None:
        self.run.tracker.log(dict(values))
