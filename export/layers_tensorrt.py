"""TensorRT's engines layer by layer, on the kind of GPU that they were built on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export.engine_layers import read_engine
from kdcompress.export.layers import readers
from kdcompress.export.run_tensorrt import TensorRTRunner
from kdcompress.layers import Profile


@readers.register("tensorrt")
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    TensorRTRunner.check()
    return read_engine(TensorRTRunner, artifact, queries, threads, parent)
