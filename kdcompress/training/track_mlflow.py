"""MLflow: in the store that it would take itself, $MLFLOW_TRACKING_URI or else one in the current folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcompress.training.trackers import Tracker, trackers


@trackers.register("mlflow")
class MLflow(Tracker):
    """In the store that MLflow itself would take: $MLFLOW_TRACKING_URI, else one in the current folder."""

    def __init__(self, project: str, name: str, folder: Path, id: str | None, step: int | None):
        import mlflow
        from accelerate.tracking import MLflowTracker

        self.mlflow = mlflow
        self.run = MLflowTracker(project, run_name=name, run_id=id if id and self._is_there(id) else None)
        self.run.start()
        self.id = self.run.tracker.info.run_id

    def _is_there(self, id: str) -> bool:
        """False in another store, and where it was removed."""
        try:
            return bool(self.mlflow.get_run(id).info.lifecycle_stage == "active")
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def log(self, values: Mapping[str, float], step: int) -> None:
        super().log(_named(values), step)

    def settings(self, values: Mapping[str, Any], recipe: str) -> None:
        self.run.store_init_configuration(_named(values))
        self.mlflow.log_text(recipe, "recipe.yaml")

    def finals(self, values: Mapping[str, float], pages: Sequence[Path]) -> None:
        self.run.log(_named(values), step=0)
        for page in pages:
            self.run.log_artifact(str(page))

    def end(self, failed: bool = False) -> None:
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """With names as MLflow takes them."""
    return {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}
