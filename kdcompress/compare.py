"""Parity: whether two runners give the same logits on the same images, as numbers and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdcompress.artifact import InputSpec
from kdcompress.runner import Runner, infer_all


@dataclass(frozen=True)
class Tolerance:
    """What may differ: ``relative`` bounds the largest difference as a share of the largest
    reference logit (None: not judged), ``agreement`` is the least share of images with the same
    arg max. Images whose two best reference logits are closer than ``relative`` are ties and count
    as agreeing."""

    relative: float | None
    agreement: float


TOLERANCES = {
    "fp32": Tolerance(relative=1e-4, agreement=1.0),
    "fp16": Tolerance(relative=1e-2, agreement=0.995),
    "int8": Tolerance(relative=None, agreement=0.95),
}


@dataclass(frozen=True)
class Parity:
    """How far ``other`` is from the reference; true where within the tolerance."""

    n: int
    max_abs: float
    mean_abs: float
    relative: float  # max_abs as a share of the largest reference logit
    same_argmax: float  # share, 0..1
    passed: bool
    why: str | None  # it did not pass

    def __bool__(self) -> bool:
        return self.passed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parity(
    reference: Runner, other: Runner, images: np.ndarray, spec: InputSpec, tolerance: Tolerance | str = "fp32"
) -> Parity:
    """Run both (entered) runners on uint8 [N, H, W, C] images and compare their logits.

    ``tolerance`` may be the name of a precision: fp32, fp16 or int8.
    """
    allowed = TOLERANCES[tolerance] if isinstance(tolerance, str) else tolerance
    (expected,), (got,) = infer_all(reference, images, spec), infer_all(other, images, spec)
    return compare_logits(expected, got, allowed)


def compare_logits(expected: np.ndarray, got: np.ndarray, tolerance: Tolerance) -> Parity:
    """The parity of two arrays of logits [N, classes]."""
    n = len(expected)
    if expected.shape != got.shape or not n:
        why = f"shapes differ: {list(got.shape)}, not {list(expected.shape)}" if n else "no images to compare on"
        return Parity(n, float("inf"), float("inf"), float("inf"), 0.0, False, why)
    for name, logits in (("reference", expected), ("other", got)):
        broken = int((~np.isfinite(logits)).any(axis=1).sum())
        if broken:
            why = f"the {name} runner gives NaN or infinite logits for {broken} of {n} images"
            return Parity(n, float("inf"), float("inf"), float("inf"), 0.0, False, why)
    difference = np.abs(expected.astype(np.float64) - got)
    scale = float(np.abs(expected).max()) or 1.0
    ranked = np.sort(expected, axis=1)
    tie = np.zeros(n, bool)
    if tolerance.relative is not None and expected.shape[1] > 1:
        tie = ranked[:, -1] - ranked[:, -2] <= 2 * tolerance.relative * scale
    same = expected.argmax(1) == got.argmax(1)
    agreement = float(np.mean(same | tie))
    relative = float(difference.max()) / scale
    reasons = []
    if tolerance.relative is not None and relative > tolerance.relative:
        reasons.append(f"logits differ by {relative:.3g} of the largest, {tolerance.relative:.3g} allowed")
    if agreement < tolerance.agreement:
        reasons.append(f"same arg max on {agreement:.2%} of the images, {tolerance.agreement:.2%} wanted")
    return Parity(
        n=n,
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        relative=relative,
        same_argmax=float(np.mean(same)),
        passed=not reasons,
        why="; ".join(reasons) or None,
    )
