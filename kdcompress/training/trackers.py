"""Trackers, by accelerate's classes for them. Each is told of one run, a training, and later of more of it.

One file a tracker: ``track_NAME.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcompress.optional import require_installed
from kdcompress.registry import Registry

EXTRAS = {"tensorboard": "track", "mlflow": "track", "wandb": "wandb", "trackio": "trackio"}


def check_tracker(name: str) -> None:
    """Raises RuntimeMissingError where its package is not installed. Nothing is imported: MLflow takes seconds."""
    require_installed(name, EXTRAS[name], f"`track: {name}`")


class Tracker(ABC):
    """A run of ``project`` in a tracker, new or (with ``id``, which an earlier one had) the same again. ``folder`` is
    for those that write files; what was told of the steps from ``step`` on is told again."""

    id: str
    run: Any  # accelerate's tracker

    @abstractmethod
    def __init__(self, project: str, name: str, folder: Path, id: str | None, step: int | None): ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures of a training after so many steps."""
        self.run.log(dict(values), step=step)

    @abstractmethod
    def settings(self, values: Mapping[str, Any], recipe: str) -> None:
        """Those of a new run, by names with dots, and the recipe's YAML."""

    @abstractmethod
    def finals(self, values: Mapping[str, float], pages: Sequence[Path]) -> None:
        """Figures that stand at the end, and the pages of the report: Markdown, HTML, JSON."""

    def end(self, failed: bool = False) -> None:
        self.run.finish()


trackers: Registry[type[Tracker]] = Registry("tracker", "kdcompress.training", "track_")
