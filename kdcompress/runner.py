"""The one way an artefact is run: parity, accuracy and latency all go through a Runner."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

import numpy as np


class Runner(Protocol):
    """A context manager that loads an artefact and infers. Loading happens in ``__enter__``, never
    in ``__init__``, so that load time can be measured and a runner can be described unloaded."""

    name: str  # "onnxruntime-cpu", "tensorrt-rtx", "torch", ...

    def __enter__(self) -> Runner: ...

    def infer(self, x: np.ndarray) -> np.ndarray:
        """``x`` as ``InputSpec.prepare`` gives it; returns float32 logits [N, classes]."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def details(self) -> dict[str, Any]:
        """Runtime, version, threads and session options, for the record."""
        ...


def infer_all(runner: Runner, images: Any, spec: Any, batch_size: int = 256) -> np.ndarray:
    """Logits float32 [N, classes] of uint8 [N, H, W, C] images, an array or kept in a file, in the batches the model
    allows."""
    if spec.batch is not None:
        batch_size = spec.batch
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        short = batch_size - len(part) if spec.batch is not None else 0
        if short:  # a fixed-batch graph takes whole batches only: repeat the last image, drop its rows
            part = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
        logits = runner.infer(spec.prepare(part))
        parts.append(logits[: len(logits) - short])
    return np.concatenate(parts)
