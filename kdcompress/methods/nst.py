"""Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. Huang and Wang 2017, arXiv:1707.01219."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import in_float32, same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps


def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    """The polynomial kernel (x_i . y_j)^2 averaged over all pairs of rows of [N, C, P] and [N, C', P] -> [N], by
    whichever of its two forms needs less memory: matrices of channels, or of positions."""
    if x.shape[2] ** 2 < x.shape[1] * y.shape[1]:
        return ((x.mT @ x) * (y.mT @ y)).sum((1, 2)) / (x.shape[1] * y.shape[1])
    return (x @ y.mT).square().mean((1, 2))


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between the channels of two maps, with the paper's polynomial kernel, d = 2 and
    c = 0.

    ``student`` [N, C, H, W] and ``teacher`` [N, C', H', W'] are of any float type; each channel is a sample, at the
    smaller of the two sizes and scaled to unit length. Averaged over pairs of channels and over the batch, a float32
    scalar from 0 to 2 at any width and resolution.
    """
    s, t = (F.normalize(x.flatten(2), dim=2) for x in same_size(student.float(), teacher.float()))
    with in_float32(s):
        return (mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)).mean()


@methods.register("nst")
class NST(Method):
    """The student's channels learn to respond to the regions of the image that the teacher's channels respond to."""

    class Options(MethodOptions):
        weight: float = stages_weight(50.0)

    family = "feature"
    paper = "arXiv:1707.01219"
    needs = Needs(student="stages", teacher="stages")

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        losses = [nst_loss(student.stages[s], teacher.stages[t]) for s, t in self.pairs]
        return {"nst": self.options.weight * sum(losses)}
