"""Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation. Liu, Huang, Lin, Xie, Wang, Chang
and Liang, ICCV 2021, arXiv:2202.03680. The variant for classification (ICKD-C), with no grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import regressor
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import products
from kdcompress.models.taps import Taps, TapShapes


def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the inner products among the channels of maps [N, C, H, W] and [N, C, h, w], each channel's
    products scaled to norm 1 (section 3); summed over the second channel, averaged over the first and the batch.
    Float32; neither the resolution nor the number of channels matters."""

    def correlations(x: Tensor) -> Tensor:
        return F.normalize(products(x.flatten(2), x.flatten(2)), dim=2)

    return (correlations(student) - correlations(teacher)).square().sum(2).mean()


@methods.register("ickd")
class ICKD(Method):
    """The student learns how the channels of the teacher's last stage correlate."""

    class Options(MethodOptions):
        weight: float = loss_weight(2.5)

    family = "relation"
    paper = "arXiv:2202.03680"
    needs = Needs(student="logits+stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        s, t = self.pairs[-1]
        self.regressor = regressor(student.stages[s].channels, teacher.stages[t].channels)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        s, t = self.pairs[-1]
        return {"ickd": self.options.weight * ickd_loss(self.regressor(student.stages[s]), teacher.stages[t])}
