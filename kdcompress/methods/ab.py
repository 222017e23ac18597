"""Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons. Heo, Lee, Yun and Choi, AAAI
2019, arXiv:1811.03233.

The paper first trains the student with this loss alone. Here the loss acts beside the labels, and ``until`` ends it
early.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import regressor, same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps, TapShapes


def ab_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Squared hinge loss that puts the student on the teacher's side of each neuron's boundary by ``margin``, the
    paper's differentiable form: max(0, margin - s)^2 where t > 0, max(0, margin + s)^2 elsewhere.

    ``student`` and ``teacher`` are maps [N, C, H, W] of any float type before their activation, compared at the smaller
    of their sizes. A float32 scalar, averaged over all elements.

    The reference sums over a map, with weight 3 / 1000 at the deepest stage and half of it at each shallower one, where
    there are twice as many elements: the same weight for each stage here, 0.003 * C * H * W of the teacher's deepest.
    """
    student, teacher = same_size(student.float(), teacher.float())
    side = torch.where(teacher > 0, 1.0, -1.0)
    return (margin - side * student).relu().square().mean()


@methods.register("ab")
class AB(Method):
    """The student learns which of the teacher's neurons are active, through connectors. How strongly is left free."""

    class Options(MethodOptions):
        weight: float = stages_weight(
            25.0,
            "The reference code's weight is 12, 25 or 49 here, where the teacher's deepest map is 64x8x8, "
            "128x8x8 or 256x8x8.",
        )
        margin: float = Field(
            1.0,
            gt=0,
            le=1000,
            description="How far a student's neuron must be on the teacher's side of 0, in units of its value "
            "before the activation.",
        )

    family = "feature"
    paper = "arXiv:1811.03233"
    needs = Needs(student="stages(pre)", teacher="stages(pre)")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.connectors = nn.ModuleList(regressor(a, b) for a, b in widths)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        losses = [
            ab_loss(connect(student.stages[s]), teacher.stages[t], self.options.margin)
            for connect, (s, t) in zip(self.connectors, self.pairs)
        ]
        return {"ab": self.options.weight * sum(losses)}
