"""Similarity-Preserving Knowledge Distillation. Tung and Mori, ICCV 2019, arXiv:1907.09682."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import products
from kdcompress.models.taps import Taps


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the images' inner products, each row of which has norm 1 (section 3), of features
    [N, ...] of any two shapes: float32.

    The paper's sum over the N^2 pairs is divided by N^2; as rows have norm 1, that falls as 1 / N. Here it is divided
    by 64 N: the same at N = 64, for which the weight of 3000 is, and the same for a batch given several times."""

    def similarities(x: Tensor) -> Tensor:
        return F.normalize(products(x.flatten(1), x.flatten(1)), dim=1)

    return (similarities(student) - similarities(teacher)).square().sum() / (64 * len(student))


@methods.register("sp")
class SP(Method):
    """The student learns which images of a batch are alike in the teacher's last stage. The maps may differ in size."""

    class Options(MethodOptions):
        weight: float = loss_weight(
            3000.0, "It is for a batch of 64 images; other sizes are scaled to that. The reference code uses 3000."
        )

    family = "relation"
    paper = "arXiv:1907.09682"
    needs = Needs(student="logits+stages", teacher="stages", whole_batch=True)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        s, t = self.pairs[-1]
        return {"sp": self.options.weight * sp_loss(student.stages[s], teacher.stages[t])}
