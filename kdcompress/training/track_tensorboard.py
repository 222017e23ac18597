"""TensorBoard: files in the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcompress.training.trackers import Tracker, trackers


@trackers.register("tensorboard")
class TensorBoard(Tracker):
    def __init__(self, project: str, name: str, folder: Path, id: str | None, step: int | None):
        from accelerate.tracking import TensorBoardTracker

        place = folder / "tensorboard"
        self.id = id or _free(place, name)
        self.run = TensorBoardTracker(self.id, place, purge_step=step if id else None)
        self.run.start()

    def settings(self, values: Mapping[str, Any], recipe: str) -> None:
        cells = {name: str(value).replace("|", "\\|") for name, value in values.items()}
        lines = [f"| {name} | {value} |" for name, value in cells.items()]
        self.run.tracker.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))
        self.run.tracker.add_text("recipe", f"```yaml\n{recipe}\n```")

    def finals(self, values: Mapping[str, float], pages: Sequence[Path]) -> None:
        self.run.log(dict(values), step=0)
        for page in pages:
            if page.suffix == ".md":
                self.run.tracker.add_text("report", page.read_text(encoding="utf-8"))


def _free(place: Path, name: str) -> str:
    number = 1
    while (place / (found := name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return found
