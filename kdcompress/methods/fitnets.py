"""FitNets: Hints for Thin Deep Nets. Romero, Ballas, Kahou, Chassang, Gatta and Bengio, ICLR 2015, arXiv:1412.6550.

The regressor ends in no ReLU, so that signed hints (linear bottlenecks, residual sums) can be reached.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import regressor, same_size
from kdcompress.methods.fields import loss_weight
from kdcompress.models.taps import Taps, TapShapes


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps [N, C, H, W] of any float type, at the smaller of their sizes (the paper's
    hint loss, a sum there). A float32 scalar, averaged over all elements: its weight depends on neither width nor
    resolution."""
    return F.mse_loss(*same_size(student.float(), teacher.float()))


@methods.register("fitnets")
class FitNets(Method):
    """The student's middle stage learns to give what the teacher's middle stage gives, through a regressor."""

    class Options(MethodOptions):
        weight: float = loss_weight(100.0, "The reference code uses 100.")
        stage: int | None = Field(
            None, ge=0, description="Which pair of stages is compared, counted from 0. null: the middle one."
        )
        hint_share: float = Field(
            0.0,
            ge=0,
            le=1,
            description="Share of the training, at its start, in which the hint acts alone, as in the paper's "
            "first phase. 0: hint and cross-entropy act together all the time.",
        )

        def strength(self, progress: float) -> float:
            return 0.0 if self.hint_share and progress > self.hint_share else super().strength(progress)

        def task_strength(self, progress: float) -> float:
            return 0.0 if progress <= self.hint_share and self.hint_share else self.task_weight

    family = "feature"
    paper = "arXiv:1412.6550"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        stage = (len(self.pairs) - 1) // 2 if self.options.stage is None else self.options.stage
        if stage >= len(self.pairs):
            allowed = f"0 to {len(self.pairs) - 1}"
            raise UsageError(
                "There is no such pair of stages.", where="method.fitnets.stage", got=stage, allowed=allowed
            )
        self.pair = self.pairs[stage]
        self.regressor = regressor(student.stages[self.pair[0]].channels, teacher.stages[self.pair[1]].channels)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        s, t = self.pair
        return {"hint": self.options.weight * hint_loss(self.regressor(student.stages[s]), teacher.stages[t])}
