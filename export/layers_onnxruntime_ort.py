""".ort files layer by layer: they run in ONNX Runtime's sessions, which have the profiler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export import layers_onnxruntime
from kdcompress.export.layers import readers
from kdcompress.layers import Profile

RUNTIME = "onnxruntime-ort-cpu"
RENAMED = "An .ort file keeps few of its parent's tensors under their names: errors are told of those alone."


@readers.register(RUNTIME)
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    found = layers_onnxruntime.read(artifact, queries, threads, parent)
    return replace(found, runtime=RUNTIME, notes=(*found.notes, *[RENAMED] * (parent is not None)))
