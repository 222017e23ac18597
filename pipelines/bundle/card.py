"""What a bundle's model card says besides its model.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.data.splits import Source
from kdcompress.export import formats
from kdcompress.pipelines.runs import STEPS
from kdcompress.pipelines.steps.check import ANSWERS
from kdcompress.report.figures import capital
from kdcompress.tasks import task_of_run


def by_class(
    run: Path, document: Mapping[str, Any], row: Mapping[str, Any], source: Source
) -> list[dict[str, Any]] | None:
    """The score of each label, by this very file on the test split; None where its answers were not kept."""
    keys = {step["name"]: step["key"] for step in document.get("steps") or []}
    name = f"check-{row['name']}"
    found = sorted(run.glob(f"{STEPS}/{name}/{keys[name]}*/{ANSWERS}")) if name in keys else []
    if not found or row["score"] is None:
        return None
    return task_of_run(document).by_label(np.load(found[0]), source.test.truth, source.labels)


def limits(row: Mapping[str, Any], artifact: Artifact) -> list[str]:
    found = []
    if artifact.precision == "int8":
        found.append("int8 arithmetic differs between CPUs: measure it on the device that will run it.")
    if row["target"]:
        found.append(f"Made for: {formats.target(row['target']).description}." if _known(row["target"]) else "")
    if row["why"]:
        found.append(f"{capital(row['status'])}: {row['why']}")
    return [text for text in found if text]


def _known(name: str) -> bool:
    return name in formats.targets()


def pretrained(document: Mapping[str, Any]) -> list[str]:
    recipe = document["recipe"]
    networks = [recipe.get("teacher"), recipe.get("student"), (recipe.get("pretrain") or {}).get("teacher")]
    return sorted({network["model"] for network in networks if network and network.get("pretrained")})
