"""The document a report is made from: JSON-able, and whole in report.json. Any part may be missing or None.

Scores are in per cent, drops in points, times in the unit of the field's name, sizes in bytes.
"""

from __future__ import annotations

from typing import Any, TypedDict


class EpochScore(TypedDict, total=False):
    epoch: float
    score: float  # on the validation split, in per cent of the metric


class Epoch(TypedDict, total=False):
    epoch: float
    step: int
    lr: float
    loss: float
    terms: dict[str, float]  # the loss by its parts, weighted as they are summed
    validation_score: float
    images_per_second: float
    seconds: float


class TrainingRecord(TypedDict, total=False):
    role: str  # "teacher" or "student"
    model: str
    method: str
    teacher: str  # of a pre-training
    parameters: int
    macs: int  # multiply-accumulates of one image
    pruned_from: dict[str, int]  # parameters and macs of the network that it is a part of
    seconds: float
    images_seen: int
    device: str
    precision: str
    selected: str  # "best" or "last": which weights were kept
    privacy: str  # what a private training promises
    teacher_cache: dict[str, Any]  # "told": what keeping a part of the teacher's answers changed
    right: float | None  # of answers in a file: per cent of the training images
    best: EpochScore
    last: EpochScore
    history: list[Epoch]


class TuningRecord(TypedDict, total=False):
    """A search for a training's settings, which have the names of a recipe's overrides."""

    role: str
    share: float  # length of a trial, of the full training
    trials: list[dict[str, Any]]  # values, state ("complete", "stopped" or "failed"), score, percent (done), why
    best: int  # which of them won; the first has the recipe's own settings
    winner: dict[str, float]  # what is not as the recipe has it
    noise: float | None  # points by which two equal ones differ once in 20 times


class LessonRecord(TypedDict, total=False):
    """After a group of classes was learnt: per cent of the test images that are right, of all ``n`` images of the
    classes learnt by then, of the old ones (None where there are none) and of the new ones."""

    classes: list[str]  # the new ones
    n: int
    old: float | None
    new: float | None
    all: float | None
    nearest: dict[str, float | None]  # the same by the nearest mean of exemplars, where some are kept


class Confusion(TypedDict, total=False):
    labels: list[str]
    teacher: list[list[int]] | None  # test images by true label (row) and predicted label (column)
    student: list[list[int]] | None


class GateRecord(TypedDict, total=False):
    name: str  # "student", "teacher"; those of latency and size as in the recipe
    limit: float
    value: float | None
    interval: dict[str, float]  # of a score or a drop: "low" and "high" (95 %), and the number of "images"
    met: bool


class StepRecord(TypedDict, total=False):
    name: str
    key: str  # SHA-256 of what the step depends on
    seconds: float
    reused: bool


class MetricRecord(TypedDict):
    """The figure that all scores are."""

    name: str  # "accuracy"
    short: str  # for the head of a column
    unit: str


class LabelRecord(TypedDict, total=False):
    label: str
    n: int  # test images that have it
    teacher: float | None  # the score of those, by the fp32 files
    student: float | None
    files: dict[str, float | None]  # by the int8 files that ship, under the names of their rows
    by: dict[str, dict[str, Any]]  # of a class, by role or row: precision and recall in per cent, images "answered" so


class CalibrationRecord(TypedDict):
    """By the names of rows: "error" in per cent, and "bins" of the largest share, each [images, its mean, the share
    that is right], 0..1. ``drawn``: those that a chart shows."""

    files: dict[str, dict[str, Any]]
    drawn: list[str]


class ThresholdRecord(TypedDict):
    """The second of two labels is the answer where its share is above ``share``, which was chosen on so many validation
    images for the figure ``name``, in per cent there and at a half."""

    share: float
    images: int
    name: str
    score: float
    at_half: float
    labels: list[str]


class Document(TypedDict, total=False):
    kdcompress: str  # the version that wrote it
    name: str
    created: str  # ISO 8601
    command: str  # reproduces the run
    recipe: dict[str, Any]
    recipe_yaml: str  # as it took effect
    recipe_hash: str
    machine: dict[str, Any]  # bench.machine.machine()
    packages: dict[str, str]
    device: dict[str, Any]  # what timed the rows: name ("local", "ssh:user@host"), machine as above
    metric: MetricRecord  # accuracy, where it is left out
    rows: list[dict[str, Any]]  # Row.to_json()
    normalisation: dict[str, Any]  # role -> mean and std of pixels in 0..1, inside the files, and where they are from
    teacher_input: str | None  # what the teacher sees, where that is not what the student sees
    training: list[TrainingRecord]
    pretraining: list[TrainingRecord]  # what a training started from; scores are likenesses to the teacher's features
    tuning: list[TuningRecord]
    lifelong: list[LessonRecord]  # in the order in which the groups were learnt
    confusion: Confusion | None
    by_label: list[LabelRecord] | None
    calibration: CalibrationRecord | None
    thresholds: dict[str, ThresholdRecord]  # by role
    gates: list[GateRecord]
    steps: list[StepRecord]
    advice: list[str]
