"""Parity: whether two runners give the same outputs on the same images, as numbers and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdcompress.artifact import InputSpec
from kdcompress.runner import Runner, infer_all
from kdcompress.task import Outputs, Task
from kdcompress.tasks import task_of, tasks


@dataclass(frozen=True)
class Tolerance:
    """What may differ: ``relative`` bounds the largest difference as a share of the largest
    value of a reference output (None: not judged), ``agreement`` is the least share of decisions that are the same
    (None: what the task says of int8). Decisions that so small a difference could change are ties, which agree."""

    relative: float | None
    agreement: float | None


CHANGED, TURNED = 0.05, 0.01  # of the places that a network chose, and of what it decides, that a rounding may change

TOLERANCES = {
    "fp32": Tolerance(relative=1e-4, agreement=1.0),
    "fp16": Tolerance(relative=1e-2, agreement=0.995),
    "int8": Tolerance(relative=None, agreement=None),
}


@dataclass(frozen=True)
class Parity:
    """How far ``other`` is from the reference; true where within the tolerance."""

    n: int
    max_abs: float
    mean_abs: float
    relative: float  # the largest difference as a share of the largest value of that output
    matched: float  # share of decisions that are the same, 0..1
    passed: bool
    why: str | None  # it did not pass

    def __bool__(self) -> bool:
        return self.passed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parity(
    reference: Runner, other: Runner, images: np.ndarray, spec: InputSpec, tolerance: Tolerance | str = "fp32"
) -> Parity:
    """Run both (entered) runners on uint8 [N, H, W, C] images and compare their outputs.

    ``tolerance`` may be the name of a precision: fp32, fp16 or int8.
    """
    outputs = infer_all(reference, images, spec), infer_all(other, images, spec)
    return compared(*outputs, task_of(spec), tolerance, spec.chosen)


def compared(
    expected: Outputs, got: Outputs, task: str | Task, tolerance: Tolerance | str = "fp32", chosen: bool = False
) -> Parity:
    """The parity of two files' outputs to the same images, float32 [N, ...] each, of networks for a ``task``.
    ``chosen``: of places that each network chose, which are compared as sets (``of_sets``)."""
    allowed = TOLERANCES[tolerance] if isinstance(tolerance, str) else tolerance
    judge = tasks[task] if isinstance(task, str) else task
    n = len(expected[0])
    decided = expected, got
    expected, got = judge.comparable(expected, got)
    shapes = [[list(each.shape) for each in outputs] for outputs in (got, expected)]
    if shapes[0] != shapes[1] or not n:
        why = f"shapes differ: {shapes[0]}, not {shapes[1]}" if n else "no images to compare on"
        return Parity(n, float("inf"), float("inf"), float("inf"), 0.0, False, why)
    for name, outputs in (("reference", expected), ("other", got)):
        finite = [np.isfinite(each).reshape(n, -1).all(1) for each in outputs]
        if broken := int((~np.logical_and.reduce(finite)).sum()):
            why = f"the {name} runner gives NaN or infinite outputs for {broken} of {n} images"
            return Parity(n, float("inf"), float("inf"), float("inf"), 0.0, False, why)
    differences = of_sets(expected, got) if chosen else list(map(_apart, expected, got))
    scales = [float(np.abs(each).max()) or 1.0 for each in expected]
    relative = max(float(each.max()) / scale for each, scale in zip(differences, scales, strict=True))
    least = judge.int8_agreement if allowed.agreement is None else allowed.agreement - TURNED * chosen
    found = judge.matched(*decided, allowed.relative or 0.0)
    reasons = []
    if allowed.relative is not None and found.numbers and relative > allowed.relative:
        reasons.append(f"outputs differ by {relative:.3g} of the largest, {allowed.relative:.3g} allowed")
    if found.share < least:
        reasons.append(f"{found.what.format(share=format(found.share, '.2%'))}, {least:.2%} wanted")
    return Parity(
        n=n,
        max_abs=max(float(each.max()) for each in differences),
        mean_abs=float(np.mean([each.mean() for each in differences])),
        relative=relative,
        matched=found.strictly,
        passed=not reasons,
        why="; ".join(reasons) or None,
    )


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(np.float64) - other)


def of_sets(expected: Outputs, got: Outputs) -> list[np.ndarray]:
    """The differences of outputs [N, P, ...] whose P rows stand in no order: of each expected row to the nearest one,
    over all outputs. A choice may turn on a rounding, and one that does changes others: of an image's rows the
    ``CHANGED`` share that differ most is left out."""
    n, places = expected[0].shape[:2]
    scales = [float(np.abs(each).max()) or 1.0 for each in expected]
    mine, theirs = (
        np.concatenate([each.reshape(n, places, -1) / scale for each, scale in zip(outputs, scales, strict=True)], 2)
        for outputs in (expected, got)
    )
    found: list[list[np.ndarray]] = [[] for _ in expected]
    for i, (ours, others) in enumerate(zip(mine.astype(np.float64), theirs.astype(np.float64), strict=True)):
        squares = (ours**2).sum(1)[:, None] + (others**2).sum(1) - 2 * ours @ others.T
        nearest = squares.argmin(1)
        worst = np.abs(ours - others[nearest]).max(1)
        kept = np.sort(np.argsort(worst, kind="stable")[: places - int(CHANGED * places)])
        for rows, one, other in zip(found, expected, got, strict=True):
            rows.append(_apart(one[i][kept], other[i][nearest[kept]]))
    return [np.stack(rows) for rows in found]
