"""What a run says of one artefact: a Row. The report shows rows and nothing that is not in one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kdcompress.intervals import Interval

Status = Literal["measured", "built, not run", "skipped", "failed"]


@dataclass
class Row:
    """One artefact, or the attempt at one. Scores and agreement in per cent, drops in points,
    times in the unit of the field's name. None: not measured."""

    name: str  # "student x86-vnni"
    role: Literal["teacher", "student"]
    format: str  # "onnx", "tensorrt-rtx", ...
    precision: str  # "fp32", "fp16", "int8"
    status: Status
    target: str | None = None  # None: the fp32 ONNX that the others are made from
    why: str | None = None  # of "built, not run", "skipped" and "failed"
    next: str | None = None  # what the user can do about it
    file: str | None = None  # relative to the run folder
    sha256: str | None = None
    bytes: int | None = None
    parameters: int | None = None
    memory: int | None = None  # bytes of the file and of its largest layer's input and output, where a budget asks
    build_seconds: float | None = None
    runtime: dict[str, Any] | None = None  # Runner.details()
    score: float | None = None  # of the whole test split, by the artefact in its own runtime
    details: dict[str, float] | None = None  # the task's other figures, in per cent
    images: int | None = None  # that have been scored
    score_low: float | None = None  # the 95 % interval of the score, as images vary (``intervals``)
    score_high: float | None = None
    drop: float | None = None  # points lost to the fp32 parent; negative: gained
    drop_to_parent: dict[str, Any] | None = None  # the same as a ``drop_record``
    drop_to_teacher: dict[str, Any] | None = None  # points lost to the teacher's fp32 ONNX, as another
    agreement: float | None = None  # with the teacher's fp32 ONNX, as the task counts it
    warnings: list[str] | None = None  # why its score is worth little; of a target's file, where its parent's is not
    parity: dict[str, Any] | None = None  # against PyTorch: max_abs, mean_abs, matched, passed
    coverage: dict[str, Any] | None = None  # precision as built
    ladder: list[dict[str, Any]] | None = None  # int8: what was tried, each with its score on validation images
    device_parity: dict[str, Any] | None = None  # its outputs on the device that timed it, against those here
    latency: dict[str, Any] | None = None  # bench record: n, median_ms, p90_ms, cv, samples_ms, ...
    answer_ms: float | None = None  # what makes an answer of its outputs to an image takes here, where that takes time
    ratio: dict[str, Any] | None = None  # latency over the fp32 parent's: median, low, high, verdict
    teacher_ratio: dict[str, Any] | None = None  # the same over the teacher's fp32 ONNX

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def drop_record(lost: Interval | None) -> dict[str, Any] | None:
    """Points lost, with the 95 % interval, the verdict of it ("no difference shown" where it holds 0) and the number of
    images."""
    if lost is None:
        return None
    return {"points": lost.value, "low": lost.low, "high": lost.high, "verdict": lost.verdict, "images": lost.images}
