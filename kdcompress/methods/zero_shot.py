"""Zero-shot Knowledge Transfer via Adversarial Belief Matching. Micaelli and Storkey, NeurIPS 2019, arXiv:1905.09768.

A generator makes images on which student and teacher differ, and the student learns from the teacher on these alone: no
training image is looked at. Where this differs from the paper: both are trained by one backward pass through a gradient
reversal, in place of ten student steps for each of the generator (its gradient is weighed down to a tenth); so the
generator enlarges the attention term too, and has the student's optimizer. The authors' code averages the KL over the
classes as well, which makes their beta weigh more, by the number of classes; here the KL is the paper's sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import same_size
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes

LARGEST_SEED = 16


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.strength * gradient, None


def generator(latent: int, channels: int, height: int, width: int) -> nn.Sequential:
    """[N, latent] -> images [N, channels, height, width] in 0..1, after the authors' (which end in the batch norm)."""
    h, w = (min(-(-side // 4), LARGEST_SEED) for side in (height, width))

    def up(size: tuple[int, int], channels: int, out: int) -> list[nn.Module]:
        conv = nn.Conv2d(channels, out, 3, padding=1)
        return [nn.Upsample(size), conv, nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]

    seed = [nn.Linear(latent, 128 * h * w), nn.Unflatten(1, (128, h, w)), nn.BatchNorm2d(128)]
    layers = [*seed, *up((-(-height // 2), -(-width // 2)), 128, 128), *up((height, width), 128, 64)]
    return nn.Sequential(
        *layers, nn.Conv2d(64, channels, 3, padding=1), nn.BatchNorm2d(channels, affine=False), nn.Sigmoid()
    )


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance of two maps' attention (equation 1: the mean of squares over the channels, as a unit vector
    of the places), over 256. Maps [N, C, H, W] of any channels and sizes; the larger attention is average-pooled.

    The authors' code takes the mean over the places, which depends on the resolution; the constant makes this equal to
    it on maps of 16x16, its middle stage. A float32 scalar, averaged over the batch.
    """
    a, b = same_size(*(t.float().square().mean(1, keepdim=True) for t in (student, teacher)))
    return (F.normalize(a.flatten(1)) - F.normalize(b.flatten(1))).square().sum(1).mean() / 256


@methods.register("zero-shot")
class ZeroShot(Method):
    """The student learns from the teacher without data, on images that a generator makes to set them apart."""

    class Options(LogitOptions):
        task_weight: float = Field(0.0, ge=0, description="of no effect: the images have no labels")
        weight: float = Field(1.0, ge=0, description="weight of the KL")
        temperature: float = Field(1.0, gt=0)
        beta: float = Field(250.0, ge=0, description="weight of the attention term, a stage")
        latent: int = Field(100, ge=1, description="dimension of the generator's input")
        reversal: float = Field(0.1, gt=0, description="weight of the generator's gradient")

    family = "response"
    paper = "arXiv:1905.09768"
    needs = Needs(student="logits+stages", teacher="logits+stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.generator = generator(self.options.latent, *student.input)

    def prepare(self, batch: Batch, progress: float) -> Batch:
        z = torch.randn(len(batch), self.options.latent, device=batch.x.device)
        return Batch(Reversed.apply(self.generator(z), self.options.reversal), batch.y[:0])

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        attention = [attention_loss(student.stages[s], teacher.stages[t]) for s, t in self.pairs]
        return {
            "kl": o.weight * kd_loss(student.logits, teacher.logits, o.temperature),
            "attention": o.beta * torch.stack(attention).sum(),
        }
