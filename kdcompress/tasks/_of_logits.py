"""What the tasks have in common whose networks give one array of logits, [N, K], for whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdcompress.artifact import Output
from kdcompress.errors import UsageError
from kdcompress.task import TOLERANCE, Matched, Outputs, Size

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Decisions:
    """What outputs decide, [N, ...], and by how much, float [N, ...]: the least change of the outputs that decides
    otherwise is half of it."""

    taken: np.ndarray
    margin: np.ndarray


class OfLogits:
    """``same`` says what share of two files' decisions is the same."""

    program = "classifier"
    hub_tag = "image-classification"
    truth = "labels"
    int8_agreement = 0.95
    same: ClassVar[str]

    def decisions(self, outputs: Outputs) -> Decisions:
        raise NotImplementedError

    def finished(self, outputs: Sequence[Output]) -> None:
        return None

    def outside(self, outputs: Sequence[Output]) -> str:
        return ""

    def comparable(self, expected: Outputs, got: Outputs) -> tuple[Outputs, Outputs]:
        return expected, got

    def matched(self, expected: Outputs, got: Outputs, relative: float) -> Matched:
        slack = relative * (float(np.abs(expected[0]).max()) or 1.0)
        one, other = self.decisions(expected), self.decisions(got)
        alike, tie = one.taken == other.taken, (one.margin <= 2 * slack) & (slack > 0)
        return Matched(float(np.mean(alike | tie)), float(np.mean(alike)), self.same)

    def kept(self, outputs: Outputs, size: Size | None = None) -> Outputs:
        return outputs

    def curve(self, answers: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> None:
        return None

    def pictures(self, images: Any, truth: np.ndarray, files: Mapping[str, np.ndarray], labels: Sequence[str]) -> None:
        return None

    def seen(self, image: np.ndarray, outputs: Outputs, labels: Sequence[str]) -> None:
        return None

    def labels_in(self, outputs: Outputs) -> int:
        return outputs[0].shape[1]

    def renumbered(self, outputs: Outputs, numbers: np.ndarray) -> Outputs:
        return tuple(logits[:, np.argsort(numbers)] for logits in outputs)

    def expected(self, outputs: Outputs, precision: str, size: Size | None = None) -> dict[str, Any]:
        return {
            "logits": [float(value) for value in outputs[0][0]],
            "tolerance": TOLERANCE[precision],
            "tolerance_is": "the largest difference of a logit, as a share of the largest logit",
        }

    def reading(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {}


def logits_in(answer: Any) -> Tensor:
    """Raises UsageError for the answer of a network for another task."""
    if hasattr(answer, "loss"):
        hint = 'Distillation(..., task="detection") for a detector'
        raise UsageError("The network gives no logits of whole images.", got=type(answer).__name__, hint=hint)
    found: Tensor = answer
    return found


def check_logits(labels: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises UsageError where what a network gives for an image is not one logit a label."""
    if list(shapes) != [(len(labels),)]:
        raise UsageError(
            "The network gives no logits of whole images.",
            got=", ".join(f"[N, {', '.join(map(str, shape))}]" for shape in shapes),
            allowed=f"[N, {len(labels)}]",
            hint="a classifier for this task, or the task that the network is for (`kdcompress list tasks`)",
        )
