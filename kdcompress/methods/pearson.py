"""PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient. Cao, Zhang, Gao, Cheng,
Cheng and Cheng, NeurIPS 2022, arXiv:2207.02039. Its name here is not ``pkd``, which is Patient KD.

Ours: the standard deviation is that of the maps (n, where the public code divides by n - 1), so that the loss is
1 - r to the last digit and the same for a batch given twice; a channel that is constant has no gradient; maps of
unequal sizes are average-pooled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import adapter, same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps, TapShapes


def standardized_channels(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Maps [N, C, H, W], float32, with mean 0 and standard deviation 1 of each channel over batch and places. A channel
    that is constant is 0: its deviation is not above ``eps`` times the larger of 1 and its mean."""
    mean = x.mean((0, 2, 3), keepdim=True)
    centred = x - mean
    variance = centred.square().mean((0, 2, 3), keepdim=True)
    varies = variance > (eps * mean.abs().clamp(min=1.0)).square()
    return centred * torch.where(varies, variance, 1.0).rsqrt() * varies


def pearson_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared difference of two maps, each channel standardised: 1 - r, where r
    is the correlation of the student's channel with the teacher's over batch and places.

    ``student`` and ``teacher`` are maps [N, C, H, W] of any float type, compared at the smaller of their sizes.
    Averaged over the channels, a float32 scalar from 0 to 2; where one of the two is constant, a channel counts 1/2.
    Its weight depends on neither width, resolution nor batch size, but it is no mean over images: they share the
    statistics.
    """
    s, t = (standardized_channels(x) for x in same_size(student.float(), teacher.float()))
    return (s - t).square().mean() / 2


@methods.register("pearson")
class Pearson(Method):
    """Each channel of the student's stages learns to rise and fall with the teacher's, at any scale."""

    class Options(MethodOptions):
        weight: float = stages_weight(6.0, "The public code uses 6 for each stage, too.")

    family = "feature"
    paper = "arXiv:2207.02039"
    needs = Needs(student="stages", teacher="stages", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.adapters = nn.ModuleList(adapter(a, b) for a, b in widths)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        losses = [
            pearson_loss(adapt(student.stages[s]), teacher.stages[t])
            for adapt, (s, t) in zip(self.adapters, self.pairs)
        ]
        return {"pearson": self.options.weight * sum(losses)}
