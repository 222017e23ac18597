"""Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection (BCKD). Yang, Zhou, Li, Qiao,
Li, Yang, Wang and Li, ICCV 2023, arXiv:2308.14286.

Each label at each place is learnt by a binary cross-entropy of its own, and counts by how far the student is from the
teacher, so that background which both know does not drown the rest. Ours: sums are divided by the sum of the teacher's
best scores, where the public code counts the places that its assignment gives an object. So the method needs no truth
and asks no head how it assigns; boxes are compared by GIoU, as in the public code.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.dense import answers, best_score, over
from kdcompress.models.detectors.towers import giou_loss, quality_focal
from kdcompress.models.taps import Tapped, Taps


def bckd_loss(student: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """The binary classification distillation loss and the IoU-based localization distillation loss, of logits
    [N, P, K] and of boxes ``ours`` and ``theirs`` [N, P, 4] in pixels.

    Two float32 scalars: sums over all places, that of the boxes weighted by the largest difference of a score, divided
    by the sum of the teacher's best scores, 1 at least. They depend on neither the batch size nor the number of places.
    """
    shares, weights = teacher.float().sigmoid(), best_score(teacher)
    apart = (student.detach().float().sigmoid() - shares).abs().amax(2)
    return over(quality_focal(student, shares, beta=1), weights), over(apart * giou_loss(ours, theirs), weights)


@methods.register("bckd")
class BCKD(Method):
    """A detector's scores and boxes learn the teacher's, the more the further they are apart."""

    class Options(MethodOptions):
        classes: float = Field(
            1.0, ge=0, description="Weight of the loss of the labels' scores. The public code uses 1."
        )
        boxes: float = Field(4.0, ge=0, description="Weight of the loss of the boxes. The public code uses 4.")

    paper = "arXiv:2308.14286"
    needs = Needs(student="answer", teacher="answer", boxes=True)

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> None:
        assert teacher is not None
        answers("bckd", student, teacher)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        ours: Any = student.answer
        theirs: Any = teacher.answer
        classes, boxes = bckd_loss(ours.logits, theirs.logits, ours.boxes(), theirs.boxes())
        return {"classes": self.options.classes * classes, "boxes": self.options.boxes * boxes}
