"""The image that a bundle comes with, and what its model must answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.data.labels import match_labels
from kdcompress.data.splits import Source
from kdcompress.errors import KDCompressError, RuntimeMissingError
from kdcompress.export import formats
from kdcompress.pipelines.bundle.chosen import artifact_of
from kdcompress.runner import infer_all
from kdcompress.task import Outputs
from kdcompress.tasks import task_of

SAMPLE_OF = 64  # test images that the sample is chosen from


def sample(
    run: Path, document: Mapping[str, Any], artifact: Artifact, source: Source, threads: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """(image uint8 [H, W, C], expected.json): of the first test images, the one that is answered right by the widest
    margin, so that another CPU's rounding does not change the answer. Of a private run it is a public image."""
    split = source.test if document["recipe"]["data"].get("public") is None else source.train
    images, truth = split.images[:SAMPLE_OF], split.truth[:SAMPLE_OF]
    spec, by, task = artifact.input, artifact, task_of(artifact.input)
    try:
        outputs = _outputs(artifact, images, threads)
    except RuntimeMissingError:
        parent = next((row for row in document["rows"] if row["name"] == "student-fp32" and row["file"]), None)
        if parent is None:
            raise
        by = artifact_of(run, parent)
        outputs = _outputs(by, images, threads)
    if (count := task.labels_in(outputs)) not in (None, spec.classes):
        got = f"{count} logits"
        raise KDCompressError("The labels are not the model's.", where=by.path, got=got, allowed=f"{spec.classes}")
    numbers = match_labels(spec.labels, source.labels, artifact.path, source.name).numbers
    best = task.sample(outputs, truth, numbers)
    one = [each[best : best + 1] for each in outputs]
    expected = {
        **task.expected(one, artifact.precision, (spec.height, spec.width)),
        "label": task.said(one, spec.labels),
        "true_label": task.named(truth[best], source.labels),
        "by": f"{by.path.name}" if by is artifact else f"{by.path.name}, for {artifact.path.name} does not run here",
        "test_image": best,
    }
    return images[best], expected


def _outputs(artifact: Artifact, images: np.ndarray, threads: int) -> Outputs:
    with formats.open_runner(artifact, threads=threads) as runner:
        return infer_all(runner, images, artifact.input)


def save_png(image: np.ndarray, path: Path) -> None:
    """uint8 [H, W, C]; of other than 1 or 3 channels, the first as grey."""
    from PIL import Image

    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(path)
