"""Correlation Congruence for Knowledge Distillation. Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang, ICCV 2019,
arXiv:1904.01802.

There is no official code. Ours: the teacher's pooled feature is taken as it is and only the student's is embedded, at
the teacher's width (two trained embeddings agree best by making all images alike); the weight, for a mean over pairs of
kernel values near 1; the paper's batches of few classes are not made.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
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
    """Images correlate in the student's embedded pooled feature as they do in the teacher's."""

    class Options(MethodOptions):
        weight: float = Field(100.0, ge=0)
        gamma: float = Field(0.4, gt=0, le=1000, description="of the Gaussian kernel")
        order: int = Field(2, ge=1, le=10, description="of the Taylor series")

    family = "relation"
    paper = "arXiv:1904.01802"
    needs = Needs(student="logits+pooled", teacher="pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.embed = nn.Linear(*pooled_widths(student, teacher))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, pooled(student, teacher)
        return {"cc": o.weight * cc_loss(self.embed(s), t, o.gamma, o.order)}
