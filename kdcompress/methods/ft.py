"""Paraphrasing Complex Network: Network Compression via Factor Transfer. Kim, Park and Kwak, NeurIPS 2018,
arXiv:1802.04977.

The paraphraser is trained in the first share of the training, while the student learns from the labels. After that the
factors come from a copy that no longer changes, and that weight decay does not reach. Different here: the decoder has
no activation at its end.
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
from kdcompress.methods.fields import loss_weight
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
    """The student's last stage learns a compressed form of the teacher's last stage, made by an auto-encoder."""

    class Options(MethodOptions):
        weight: float = loss_weight(
            11.0, "It stands for the reference code's 500 with p = 1, for ResNet-56 (factors of 32x8x8)."
        )
        p: Literal[1, 2] = Field(
            1, description="Which distance the factors have. 1: absolute differences. 2: squared differences."
        )
        rate: float = Field(
            0.5, gt=0, le=1, description="Channels of the factor, as a share of the teacher's channels."
        )
        paraphrase_share: float = Field(
            1 / 8,
            gt=0,
            lt=1,
            description="Share of the training, at its start, in which the paraphraser learns. Until then the "
            "student learns from the labels alone.",
        )

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
