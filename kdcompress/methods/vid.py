"""Variational Information Distillation for Knowledge Transfer. Ahn, Hu, Damianou, Lawrence and Dai, CVPR 2019,
arXiv:1904.05835."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps, TapShapes


def vid_loss(mean: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's map under a Gaussian (section 2 of the paper), less its constant.

    ``mean`` and ``teacher`` are maps [N, C, H, W] of any float type, compared at the smaller of their sizes; the
    variance of a channel is softplus(``scale`` [C]) + 1e-5. In nats, averaged over all elements: a float32 scalar whose
    weight depends on neither width nor resolution.
    """
    mean, teacher = same_size(mean.float(), teacher.float())
    variance = F.softplus(scale.float())[:, None, None] + 1e-5
    return ((mean - teacher).square() / variance + variance.log()).mean() / 2


class Gaussian(nn.Module):
    """What the student's map [N, channels, H, W] says of the teacher's [N, out, H, W]: the mean, by three 1x1
    convolutions, and the scale of each channel's variance, the same at every position."""

    def __init__(self, channels: int, out: int, variance: float):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels, out, 1), nn.ReLU(), nn.Conv2d(out, out, 1), nn.ReLU(), nn.Conv2d(out, out, 1)
        )
        self.scale = nn.Parameter(torch.full((out,), variance + math.log(-math.expm1(-variance))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return vid_loss(self.mean(student), teacher, self.scale)


@methods.register("vid")
class VID(Method):
    """The student's stages learn to keep information about the teacher's stages, by a variational bound."""

    class Options(MethodOptions):
        weight: float = stages_weight(1.0, "The reference code uses 1.")
        initial_variance: float = Field(
            5.0,
            ge=1e-3,
            le=1000,
            description="Variance of the teacher's channels that the training starts from; it is learnt. The "
            "reference code uses 5.",
        )

    family = "feature"
    paper = "arXiv:1904.05835"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.gaussians = nn.ModuleList(Gaussian(a, b, self.options.initial_variance) for a, b in widths)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        losses = [loss(student.stages[s], teacher.stages[t]) for loss, (s, t) in zip(self.gaussians, self.pairs)]
        return {"vid": self.options.weight * sum(losses)}
