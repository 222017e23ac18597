"""Learning Student Networks via Feature Embedding: the locality preserving loss. Chen, Wang, Xu, Xu and Tao, IEEE
TNNLS 2020, arXiv:1812.06597.

Different here: features of both sides have norm 1 first, so that neither the width of the kernel nor the weight depends
on how long they are, and the student gains nothing by making all of them short. Neighbours are sought in the batch.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import cosines, neighbours, pooled, pooled_widths
from kdcompress.models.taps import Taps, TapShapes


def lp_loss(student: Tensor, teacher: Tensor, count: int, sigma: float) -> Tensor:
    """Squared distance of student features [N, D] to those of the ``count`` images nearest in the teacher's [N, E],
    each times exp(-d^2 / sigma^2) of its distance d there, with features of norm 1 on both sides. Averaged over
    neighbours and images (the paper sums over neighbours), and halved; a float32 scalar."""
    ours, theirs = (2 - 2 * cosines(x, x) for x in (student, teacher))
    return (neighbours(teacher, count) * (-theirs / sigma**2).exp() * ours).sum(1).mean() / 2


@methods.register("lp")
class LP(Method):
    """Images that are near each other in the teacher's features learn to be near in the student's."""

    class Options(MethodOptions):
        weight: float = loss_weight(10.0)
        neighbours: int = Field(5, ge=1, le=65_536, description="Nearest images of the batch that each is drawn to.")
        sigma: float = Field(
            1.0,
            ge=0.01,
            le=1000,
            description="Width of the kernel: a neighbour at this distance in the teacher's features, which have "
            "norm 1, counts 37 %.",
        )

    family = "relation"
    paper = "arXiv:1812.06597"
    needs = Needs(student="logits+pooled", teacher="pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        pooled_widths(student, teacher)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, pooled(student, teacher)
        return {"lp": o.weight * lp_loss(s, t, o.neighbours, o.sigma)}
