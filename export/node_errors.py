"""How far the values of an ONNX file are from those of its parent, by node of the parent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.export import bisect

AT_ONCE = 4  # images: the values of all tensors of a large network are many


def snr_db(file: Any, spec: InputSpec, parent: Any, above: Artifact, images: np.ndarray) -> dict[str, float]:
    """For each node of the ModelProto ``parent`` whose values ``file`` has too, the power of its values to that of
    their difference, in decibels, over uint8 [N, H, W, C] images; infinite where they are the same. Both graphs run
    with each of these values as an output, so nothing is fused, but what is rounded is rounded."""
    common = bisect.in_common(parent, file)
    if not common:
        return {}
    size = math.lcm(spec.batch or 1, above.input.batch or 1)
    size *= max(1, AT_ONCE // size)
    images = np.concatenate([images, np.repeat(images[-1:], -len(images) % size, axis=0)])
    signal, noise = dict.fromkeys(common, 0.0), dict.fromkeys(common, 0.0)
    for reference, values in zip(
        _in_parts(parent, above.input, common, images, size), _in_parts(file, spec, common, images, size), strict=True
    ):
        for name in common:
            add = powers(reference[name], values[name])
            signal[name] += add[0]
            noise[name] += add[1]
    found = {}
    for node in parent.graph.node:
        name = next((each for each in node.output if each in signal), "")
        if node.name and name and not math.isnan(error := decibels(signal[name], noise[name])):
            found[node.name] = error
    return found


def decibels(signal: float, noise: float) -> float:
    """Infinite where the two are the same, NaN where there is no signal or they are of no results."""
    if not signal > 0 or math.isnan(noise):
        return math.nan
    return 10 * math.log10(signal / noise) if noise else math.inf


def _in_parts(model: Any, spec: InputSpec, names: list[str], images: np.ndarray, size: int) -> Any:
    """``size`` images at a time, also where the graph takes fewer at once."""
    batch = spec.batch or size
    found: list[dict[str, np.ndarray]] = []
    for part in bisect.computed(model, spec, names, images, batch):
        found.append(part)
        if len(found) * batch == size:
            yield {name: np.concatenate([np.atleast_1d(each[name]) for each in found]) for name in names}
            found = []


def powers(expected: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """Those of the reference and of the difference. NaN where the two are no results of the images: other shapes, or
    whole numbers."""
    if expected.shape != got.shape or not all(np.issubdtype(a.dtype, np.floating) for a in (expected, got)):
        return math.nan, math.nan
    wide = expected.astype(np.float64)
    return float(np.sum(wide**2)), float(np.sum((wide - got) ** 2))
