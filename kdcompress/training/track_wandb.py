"""Weights & Biases: offline, in the folder of the run, where neither a key nor a mode is known."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcompress.training.trackers import Tracker, trackers


@trackers.register("wandb")
class WandB(Tracker):
    """Offline, in the run's folder, where no key and no mode are known."""

    def __init__(self, project: str, name: str, folder: Path, id: str | None, step: int | None):
        import wandb
        from accelerate.tracking import WandBTracker

        self.wandb = wandb
        # What is printed here, code and its repository are nothing that was asked for.
        only = wandb.Settings(console="off", disable_code=True, disable_git=True)
        mode = None if "WANDB_MODE" in os.environ or _has_key() else "offline"
        options: dict[str, Any] = {"name": name, "id": id, "resume": "allow", "dir": str(folder), "mode": mode}
        self.run = WandBTracker(os.environ.get("WANDB_PROJECT", project), settings=only, **options)
        self.run.start()
        self.id = self.run.tracker.id
        self.run.tracker.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.tracker.log({**values, "step": step})  # its own step may never go back, as after an interruption

    def settings(self, values: Mapping[str, Any], recipe: str) -> None:
        self.run.store_init_configuration({**values, "recipe": recipe})

    def finals(self, values: Mapping[str, float], pages: Sequence[Path]) -> None:
        self.run.tracker.summary.update(dict(values))
        report = self.wandb.Artifact(f"report-{self.id}", type="report")
        for page in pages:
            report.add_file(str(page))
        self.run.tracker.log_artifact(report)

    def end(self, failed: bool = False) -> None:
        self.run.tracker.finish(exit_code=int(failed))


def _has_key() -> bool:
    from requests.utils import get_netrc_auth

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return "WANDB_API_KEY" in os.environ or get_netrc_auth(host) is not None
