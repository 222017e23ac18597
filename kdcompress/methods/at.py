"""Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention
Transfer. Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps


def at_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two attention maps, equation 2 of the paper (squared, as in its code).

    ``student`` [N, C, H, W] and ``teacher`` [N, C', H', W'] are maps of any float type. A map's attention is the mean
    of its squares over the channels, average-pooled to the smaller size and scaled to unit length. Summed over the
    positions and averaged over the batch, a float32 scalar from 0 to 2 at any resolution.

    The reference averages over the positions too, which ties its weight of 1000 to the resolution: 1000 / (H * W) is
    what it is here, 1 at 32x32, 4 at 16x16 and 16 at 8x8.
    """
    attention = same_size(*(x.float().square().mean(1, keepdim=True) for x in (student, teacher)))
    a, b = (F.normalize(x.flatten(1)) for x in attention)
    return (a - b).square().sum(1).mean()


@methods.register("at")
class AT(Method):
    """The student learns where in the image each stage of the teacher is active."""

    class Options(MethodOptions):
        weight: float = stages_weight(
            7.0, "The reference code's weight is 1, 4 and 16 here for maps of 32x32, 16x16 and 8x8; 7 is their mean."
        )

    family = "feature"
    paper = "arXiv:1612.03928"
    needs = Needs(student="stages", teacher="stages")

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        losses = [at_loss(student.stages[s], teacher.stages[t]) for s, t in self.pairs]
        return {"at": self.options.weight * sum(losses)}
