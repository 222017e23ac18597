"""Paraphrasing Complex Network: Network Compression via Factor Transfer. Kim, Park and Kwak, NeurIPS 2018,
arXiv:1802.04977.

The paraphraser is trained in the first share of the training, beside the student's training with labels; the factors
come from a copy that stays as it was then, out of reach of weight decay. Ours: its decoder ends in no activation.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import as_buffers, same_size
from kdcompress.models.taps import Taps, TapShapes


def ft_loss(student: Tensor, teacher: Tensor, p: int) -> Tensor:
    """The paper's factor transfer loss: the distance of two factors [N, C, H, W] of any float type, each scaled to unit
    length. A float32 scalar, the mean of |sqrt(D) * difference|^p over the D elements and the batch, so that its weight
    depends on neither width nor resolution: the squared distance for p = 2; for p = 1, sqrt(D) times the reference's
    mean."""
    a, b = (F.normalize(x.flatten(1)) * x[0].numel() ** 0.5 for x in same_size(student.float(), teacher.float()))
    return (a - b).abs().pow(p).mean()


def layers(*channels: int) -> nn.Sequential:
    """3x3 convolutions with batch norm and leaky ReLU, through these numbers of channels."""
    blocks = [(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)) for a, b in zip(channels, channels[1:])]
    return nn.Sequential(*(layer for block in blocks for layer in block))


@methods.register("ft")
class FT(Method):
    """The student's last stage, translated, imitates the teacher's, paraphrased by an auto-encoder."""

    class Options(MethodOptions):
        weight: float = Field(11.0, ge=0, description="the reference's 500 at ResNet-56's factors, 32x8x8, with p = 1")
        p: Literal[1, 2] = 1
        rate: float = Field(0.5, gt=0, le=1, description="the factor's channels, as a share of the teacher's")
        paraphrase_share: float = Field(1 / 8, gt=0, lt=1, description="share of the training, for the paraphraser")

    family = "feature"
    paper = "arXiv:1802.04977"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        s, t = (shapes.stages[i].channels for shapes, i in zip((student, teacher), self.pairs[-1]))
        m = max(1, round(self.options.rate * t))
        self.translator = layers(s, s, m, m)
        self.encoder = layers(t, t, m, m)
        self.decoder = nn.Sequential(layers(m, m, t), nn.Conv2d(t, t, 3, 1, 1))
        self.paraphraser = as_buffers(self.encoder)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, self.pairs[-1]
        target = teacher.stages[t]
        rest = 0.0 * torch.stack([p.sum() for p in self.parameters()]).sum()  # a gradient of 0 for those not in use
        if progress < o.since + o.paraphrase_share:
            self.paraphraser.load_state_dict(self.encoder.state_dict())
            error = F.mse_loss(self.decoder(self.encoder(target)).float(), target.float())
            return {"ft": rest, "paraphrase": rest + error}
        factor = self.paraphraser.eval()(target)
        return {"ft": rest + o.weight * ft_loss(self.translator(student.stages[s]), factor, o.p), "paraphrase": rest}
