"""What a network is for: the protocol of a task, on arrays alone, and what all of them share.

A task is a file in ``kdcompress/tasks``; no other file asks which task it is. What it judges are the outputs of a
file, float32 [N, ...] each, in the order of its spec: so the same code judges PyTorch, a file in any runtime, a
device's answers and a bundle's. torch is imported by what trains, and there alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kdcompress.artifact import Output
from kdcompress.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    class Needs(Protocol):
        """Of a method: ``kdcompress.methods.base.Needs``."""

        @property
        def one_label(self) -> bool: ...

        @property
        def boxes(self) -> bool: ...

        @property
        def class_maps(self) -> bool: ...

        @property
        def sides(self) -> bool: ...

        def of(self, member: Any) -> frozenset[str]: ...


Size = tuple[int, int]
Outputs = Sequence[np.ndarray]
"""Of a file, float32 [N, ...] each, in the order of its spec."""


# How far a bundle's model may be from what is expected of it: other CPUs and versions add up in another order, and
# int8 rounds at other places.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.15}
LEAST = 3  # images or objects of a label, from which on it is told that no answer is right


@dataclass(frozen=True)
class Metric:
    """The one figure that a task is scored by."""

    name: str
    short: str  # for the head of a column
    unit: str = "%"
    each: str = ""  # what the figure of one label is called, where that is another
    beside: tuple[str, ...] = ()  # names of those of the details that reports show
    parts: tuple[str, ...] = ()  # names of details that stand in a table of their own
    parts_title: str = ""
    parts_note: str = ""
    counted: str = "images"  # what a label has a number of
    agreement: str = "share of the test images that get the same answer from the teacher's fp32 ONNX file"
    after: str = ""  # what makes answers of a file's outputs, where that takes time
    inside: bool = False  # whether a file can do that itself, with `nms: graph`


@dataclass(frozen=True)
class Matched:
    """How much of what two files decide is the same, 0..1: ``share`` counts decisions that a small difference of the
    outputs could change, ``strictly`` doesn't."""

    share: float
    strictly: float
    what: str  # "same arg max on {share} of the images"
    numbers: bool = True  # whether the outputs are numbers that may differ by a little, and no decisions themselves


@dataclass(frozen=True)
class Confusion:
    """How often each label is taken for each: ``counts`` int [true, answered], of ``labels``, among which may be one
    that says that there is nothing."""

    labels: list[str]
    counts: list[list[int]]
    of: str = "test images"  # what is counted
    note: str = ""  # what that means, in a sentence or two


@dataclass(frozen=True)
class Curve:
    """One figure of a file's answers against another, both 0..1."""

    points: list[tuple[float, float]]
    x: str
    y: str
    title: str
    note: str


@dataclass(frozen=True)
class Panel:
    """``image``: a data URI, of an image with what ``name`` (a file, "truth", or "" where there is one alone) says of
    it."""

    name: str
    said: str
    image: str
    verdict: str = ""


@dataclass(frozen=True)
class Picture:
    """An image of the test split as the truth and files see it: ``title`` and ``what`` say why it is shown."""

    title: str
    what: str
    index: int  # in the split
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Pictures:
    """What a report shows: ``key`` says what is drawn, by the kinds of marks (``drawing``)."""

    shown: list[Picture]
    key: dict[str, str]
    note: str


@dataclass(frozen=True)
class Calibration:
    """Whether a file is as often right as it is sure: for each bin of the largest share that has images, how many, the
    mean of those shares and the share that is right, 0..1; and the expected calibration error in per cent."""

    error: float
    bins: list[tuple[int, float, float]]


@dataclass(frozen=True)
class Threshold:
    """The share of one class, of two, above which it is the answer: chosen on so many images, for the figure ``name``,
    in per cent there and at a half."""

    share: float
    images: int
    name: str
    score: float
    at_half: float


@dataclass(frozen=True, eq=False)
class Blind:
    """Answers, as a step keeps them, that need no look at the images: their score in per cent, and ``what`` they are,
    "always answering 'b'"."""

    answers: np.ndarray
    score: float
    what: str


class OneFigure:
    """Of a task that has one metric and no threshold."""

    metric: Metric
    purpose: str
    metrics: Mapping[str, Metric] = {}

    def judging(self, metric: str | None = None, threshold: float | None = None) -> Any:
        if metric is not None:
            raise UsageError(
                f"Networks for {self.purpose} are judged by one figure, {self.metric.name}.",
                where="metric",
                got=metric,
                hint="leave it out",
            )
        return self

    def renumbering(self, numbers: np.ndarray) -> Any:
        return self

    def decided_by_threshold(self, labels: Sequence[str]) -> bool:
        return False

    def threshold_for(self, outputs: Outputs, truth: np.ndarray) -> Threshold:
        raise NotImplementedError  # decided_by_threshold says so

    def calibration(self, outputs: Outputs, truth: np.ndarray) -> None:
        return None

    def blind(self, truth: np.ndarray, labels: Sequence[str]) -> None:
        return None


def unanswered(
    labels: Sequence[str], there: np.ndarray, right: np.ndarray, parents: np.ndarray | None = None
) -> list[str]:
    """ "'b' (0 of 3)" for each label that is answered right for none of those ``there``; ``there``, ``right`` int [K].
    Those that the ``parents`` int [K] answer no better are left out."""
    none = (there >= LEAST) & (right == 0)
    if parents is not None:
        none &= parents > 0
    return [f"'{labels[k]}' (0 of {there[k]:,})" for k in np.flatnonzero(none).tolist()]


class Task(Protocol):
    name: str
    metric: Metric
    truth: str  # the kind that it learns, of the sources that have several: "labels", "objects", "masks" or "maps"
    purpose: str  # "a network for ..."
    hub_tag: str  # what the Hugging Face Hub calls it
    answer: str  # how outputs are read, for programs: "the largest" or "all above 0"
    program: str  # of a bundle: what its program is called, and the folder of templates that it is made from
    refusal: str  # what a method does that it does not take: "compares ..."
    int8_agreement: float  # of what an int8 file and its network decide, at least, 0..1
    metrics: Mapping[str, Metric]  # by the names that a recipe may give; none where there is one alone

    def judging(self, metric: str | None = None, threshold: float | None = None) -> Task:
        """This task with another figure, and of two classes with a ``threshold``: the share of the second above which
        it is the answer. None: as it is. Raises UsageError for a figure that it has not."""
        ...

    def renumbering(self, numbers: np.ndarray) -> Task:
        """What judges the outputs of a file as ``renumbered`` gives them."""
        ...

    def decided_by_threshold(self, labels: Sequence[str]) -> bool:
        """Whether a threshold can decide between these."""
        ...

    def threshold_for(self, outputs: Outputs, truth: np.ndarray) -> Threshold:
        """The threshold that is best for these outputs."""
        ...

    def outputs(self, labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[Output, ...]:
        """Of the file that ships. ``shapes``: of what the network gives for an image."""
        ...

    def finished(self, outputs: Sequence[Output]) -> tuple[Output, ...] | None:
        """Those of a file that does inside what ``metric.after`` names, for a network that gives ``outputs``; None
        where there is nothing to do."""
        ...

    def outside(self, outputs: Sequence[Output]) -> str:
        """What makes answers of a file's ``outputs`` outside it, where that takes time: ``metric.after``, or ""."""
        ...

    def check(self, truth: np.ndarray, source: str) -> None:
        """Raises UsageError where a source's truth is another task's."""
        ...

    # Judged on arrays

    def comparable(self, expected: Outputs, got: Outputs) -> tuple[Outputs, Outputs]:
        """Two files' outputs to the same images as they are compared number by number: as they are, where the same
        place means the same."""
        ...

    def matched(self, expected: Outputs, got: Outputs, relative: float) -> Matched:
        """How much of what two files decide about the same images is the same. ``relative``: by how much an output may
        differ, as a share of its largest value; 0 where that is not judged."""
        ...

    def kept(self, outputs: Outputs, size: Size | None = None) -> Outputs:
        """What is kept of a file's outputs to a part of a split, [N, ...] each: all that the functions below need.
        ``size``: height and width of the images, for answers that are as large."""
        ...

    def answers(self, outputs: Outputs) -> np.ndarray:
        """What a step keeps of those to a split, [N, ...]."""
        ...

    def score(self, outputs: Outputs, truth: np.ndarray) -> float:
        """How good the answers to a split are: the metric's figure, in per cent."""
        ...

    def details(self, outputs: Outputs, truth: np.ndarray) -> dict[str, float]:
        """Further figures by their names, in per cent."""
        ...

    def calibration(self, outputs: Outputs, truth: np.ndarray) -> Calibration | None:
        """None where no one share says how sure an answer is."""
        ...

    def blind(self, truth: np.ndarray, labels: Sequence[str]) -> Blind | None:
        """The best answers that need no look at the images; None where there are none to compare with."""
        ...

    def right(self, answers: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
        """Which images are answered rightly, bool [N], where the score is their share; None of any other figure."""
        ...

    def resampled(self, answers: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The scores in per cent, float64 [B], where each image is there as often as ``weights`` int [B, N] say."""
        ...

    def agreement(self, mine: np.ndarray, theirs: np.ndarray) -> float:
        """Of two files' answers, per cent."""
        ...

    def by_label(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        """For each label its name, "n" of it (what ``metric.counted`` says), and "score" in per cent, None where there
        is none of it. Of classes also "precision" and "recall" in per cent, and how many images are "answered" so."""
        ...

    def confusion(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> Confusion | None:
        """None where a label is not taken for another."""
        ...

    def curve(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> Curve | None:
        """What a report draws of a file's answers; None where it draws nothing."""
        ...

    def pictures(
        self, images: Any, truth: np.ndarray, files: Mapping[str, np.ndarray], labels: Sequence[str]
    ) -> Pictures | None:
        """A few images, with the answers of files to them, which a report shows; None where it shows none. ``images``
        uint8 [N, H, W, C], an array or kept in a file. The first file is the one that the others are compared with."""
        ...

    def seen(self, image: np.ndarray, outputs: Outputs, labels: Sequence[str]) -> Panel | None:
        """An image, uint8 [H, W, C], with what the outputs to it say drawn on it, [1, ...] each; None where there is
        nothing to draw."""
        ...

    def warnings(
        self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str], parent: np.ndarray | None = None
    ) -> list[str]:
        """What makes the score of these answers worth little, as ends of sentences whose subject has given them.
        ``parent``: the answers of the file that it was made from; what is said of those is left out."""
        ...

    def labels_in(self, outputs: Outputs) -> int | None:
        """How many labels what was kept tells apart; None where it does not say."""
        ...

    def renumbered(self, outputs: Outputs, numbers: np.ndarray) -> Outputs:
        """Those of a file whose label k is number ``numbers[k]`` of the source, as the source counts."""
        ...

    def sample(self, outputs: Outputs, truth: np.ndarray, numbers: np.ndarray) -> int:
        """The image that shows best whether a file answers as it should: the clearest of those that are right. The
        outputs are the file's own; its label k is number ``numbers[k]`` of the source."""
        ...

    def named(self, row: np.ndarray, labels: Sequence[str]) -> str:
        """What one image's truth says, in words."""
        ...

    def said(self, outputs: Outputs, labels: Sequence[str]) -> str:
        """What the outputs to one image say, in the same words."""
        ...

    def expected(self, outputs: Outputs, precision: str, size: Size | None = None) -> dict[str, Any]:
        """What a bundle's program compares a file's outputs to its sample with, as JSON: ``outputs`` to that one image,
        [1, ...] each, and how far those of a file of that precision may be from them. ``size`` as of ``kept``."""
        ...

    def reading(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """What a bundle's programs must know to read the outputs, as JSON; ``data`` is the recipe's."""
        ...

    def noise(self, score: float, images: int) -> float | None:
        """Points by which two equal networks' scores differ once in 20 times; None where nothing simple says so."""
        ...

    # Trained

    def loss(self, answer: Any, y: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
        """The supervised loss, a float32 scalar: of a network's answer (``models.answers``) to the images of a batch,
        of which the first ``len(y)`` have a truth. ``weights`` float32 [K]: of each class, where images have one."""
        ...

    def rows(self, logits: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits [N, ..., K] as methods on logits compare them: rows [M, C] whose softmax is a distribution each.
        ``y``, as in a batch: which places of the first ``len(y)`` images are judged, where it ignores some."""
        ...

    def takes(self, needs: Needs) -> bool:
        """Whether networks of this task can learn by a method that needs this."""
        ...
