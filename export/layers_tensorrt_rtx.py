"""TensorRT-RTX's engines layer by layer, on a GeForce or RTX GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export.engine_layers import read_engine
from kdcompress.export.layers import readers
from kdcompress.export.run_tensorrt_rtx import TensorRTRTXRunner
from kdcompress.layers import Profile


@readers.register("tensorrt-rtx")
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    TensorRTRTXRunner.check()
    return read_engine(TensorRTRTXRunner, artifact, queries, threads, parent)
