"""A file layer by layer: what its runtime runs, in which precision, for how long, and how far from its parent.

A runtime's reader (``kdcompress.export.layers_*``) gives a ``Profile``; everything that is shown of one is made from it
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdcompress.artifact import Artifact


@dataclass(frozen=True)
class Layer:
    """One layer as the runtime runs it. ``times``: milliseconds, float [queries], of the same queries for every layer
    of a profile. ``shape``: of its first output, for one query. ``made_of``: names of the nodes of the ONNX parent that
    were fused into it; those of a network's module start with the module's path. ``snr_db``: power of the parent's
    values to that of the difference, in decibels. None and "": the runtime does not say."""

    name: str
    kind: str  # of operator, by the runtime's name
    times: np.ndarray
    precision: str = ""  # of the arithmetic: fp32, fp16, bf16, int8
    shape: tuple[int, ...] = ()
    macs: int | None = None  # multiply-accumulates of one query
    made_of: tuple[str, ...] = ()
    snr_db: float | None = None


@dataclass(frozen=True)
class Profile:
    """The layers of a file in the order in which they run. ``whole``: milliseconds, float [queries], of the file
    without its profiler, measured in turns with the profiled queries. ``notes``: what could not be had, and why."""

    runtime: str
    version: str
    threads: int
    layers: tuple[Layer, ...]
    whole: np.ndarray
    notes: tuple[str, ...] = field(default=())


# (artefact, queries as InputSpec.prepare gives them, threads, parent or None) -> profile. With a parent, an fp32 ONNX
# file, layers get their snr_db and made_of where the runtime gives what that needs.
Reader = Callable[[Artifact, Sequence[np.ndarray], int, Artifact | None], Profile]
