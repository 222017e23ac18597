"""Correlation Congruence for Knowledge Distillation. Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang, ICCV 2019,
arXiv:1904.01802.

There is no official code. Different here: the teacher's pooled feature is taken as it is, and only the student's is
embedded, at the teacher's width. (Two trained embeddings agree best when they make all images alike.) The weight is for
a mean over pairs, with kernel values near 1. The paper's batches of few classes are not made.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import cosines, pooled, pooled_widths
from kdcompress.models.taps import Taps, TapShapes


def cc_loss(student: Tensor, teacher: Tensor, gamma: float, order: int) -> Tensor:
    """Mean squared difference over all pairs of images of the correlations of features [N, D] and [N, E]: the Gaussian
    kernel exp(-gamma |x - y|^2) of features of norm 1 as a Taylor series in x . y (section 3); float32."""

    def correlations(x: Tensor) -> Tensor:
        cos = cosines(x, x)
        terms = [(2 * gamma) ** p / math.factorial(p) * cos**p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(terms[1:], terms[0])

    return F.mse_loss(correlations(student), correlations(teacher))


@methods.register("cc")
class CC(Method):
    """The student learns how the teacher's pooled features of two images correlate."""

    class Options(MethodOptions):
        weight: float = loss_weight(100.0)
        gamma: float = Field(
            0.4,
            gt=0,
            le=1000,
            description="Width of the Gaussian kernel exp(-gamma * distance^2). Larger: only images that are "
            "very alike count.",
        )
        order: int = Field(2, ge=1, le=10, description="Order of the Taylor series that stands for the kernel.")

    family = "relation"
    paper = "arXiv:1904.01802"
    needs = Needs(student="logits+pooled", teacher="pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.embed = nn.Linear(*pooled_widths(student, teacher))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, pooled(student, teacher)
        return {"cc": o.weight * cc_loss(self.embed(s), t, o.gamma, o.order)}
