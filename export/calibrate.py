"""Ranges of activations that ONNX Runtime's calibration does not find: by least squared error, and by entropy.

Its own "entropy" has 128 bins for 128 levels: one candidate, which is the minimum and the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.data.kept import Images

BINS = 2048
LEVELS = 256
SHARES = np.linspace(1.0, 0.2, 81)  # of the whole range


def calibration_images(images: Images, count: int) -> np.ndarray:
    """That many of the training images, or all: the same ones each time, in their order."""
    count = min(count, len(images))
    return images[np.sort(np.random.Generator(np.random.PCG64(0)).choice(len(images), count, replace=False))]


def write_ranges(model: Path, reader: Any, method: str, scratch: Path, path: Path) -> None:
    """Run the ONNX file ``model`` on the reader's batches and write each tensor's range, by ``method`` "mse" or
    "entropy", to ``path``, in the form that the quantiser takes in place of its own calibration."""
    from onnxruntime.quantization import calibrate

    collecting = calibrate.EntropyCalibrater(model, augmented_model_path=str(scratch), num_bins=BINS)
    collecting.augment_graph()
    collecting.create_inference_session()
    collecting.collect_data(reader)
    found = {}
    for name, (counts, edges, low, high, _) in collecting.collector.histogram_dict.items():
        chosen = best_range(counts, edges, float(low), float(high), LOSSES[method])
        found[name] = tuple(np.array(edge, np.float32) for edge in chosen)
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, found), path)


def best_range(
    counts: np.ndarray, edges: np.ndarray, low: float, high: float, loss: Callable[..., float]
) -> tuple[float, float]:
    """(low, high), which holds 0, shrunk as far as makes ``loss(counts, values, levels, restored)`` least: of values in
    the middle of ``counts`` [bins] between ``edges`` [bins + 1], the nearest of 256 levels and what that stands for."""
    values, low, high = (edges[:-1] + edges[1:]) / 2, min(low, 0.0), max(high, 0.0)
    if high <= low:
        return low, high

    def of(share: float) -> float:
        step = (high - low) * share / (LEVELS - 1)
        zero = np.rint(-low * share / step)
        levels = np.clip(np.rint(values / step) + zero, 0, LEVELS - 1)
        return loss(counts, values, levels.astype(int), (levels - zero) * step)

    best = min(SHARES, key=of)
    return float(low * best), float(high * best)


def squared_error(counts: np.ndarray, values: np.ndarray, levels: np.ndarray, restored: np.ndarray) -> float:
    """Of what is cut off and of what is rounded."""
    return float((counts * np.square(restored - values)).sum())


def divergence(counts: np.ndarray, values: np.ndarray, levels: np.ndarray, restored: np.ndarray) -> float:
    """KL(p || q) in nats, of the values that were there, those cut off counted at the ends, and of each level spread
    over its bins (Migacz, "8-bit inference with TensorRT", GTC 2017)."""
    cut = np.abs(restored - values) > np.ptp(restored) / (LEVELS - 1)
    filled = np.flatnonzero(~cut & (counts > 0))
    if not len(filled):
        return math.inf
    p = counts[filled].astype(float)
    p[0] += counts[cut & (values < values[filled[0]])].sum()
    p[-1] += counts[cut & (values > values[filled[-1]])].sum()
    place = levels[filled]
    q = np.bincount(place, counts[filled], LEVELS)[place] / np.bincount(place, minlength=LEVELS)[place]
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


LOSSES = {"mse": squared_error, "entropy": divergence}
