"""Feature-map-level Online Adversarial Knowledge Distillation (AFD). Chung, Park, Kim and Kwak, ICML 2020,
arXiv:2002.01775.

From the paper: networks are trained at once. Each has a discriminator that takes the other network's feature map for
real and its own for fake (least squares), and learns to fool it; so it comes to have maps like the other's without
having the same map for each image. They learn from each other's class probabilities besides. Of more than two each
learns the map of the next, and the last that of the first.

Different here: networks and discriminators move in one step of one optimizer, where the paper has turns, and an
optimizer for each. Each loss has a gradient for one side only (the other side is a constant in it), so a step is what
both turns are to first order in the learning rate; what each plays against is at most one step older. The map is that
of the deepest stage; a 1x1 convolution gives it the next one's width where that is another, and the larger one is
average-pooled. The discriminator judges each place of the map, and has no batch norm: rows do not depend on each other.
Weights and widths are ours.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import adapter, as_constant, in_float32, same_size
from kdcompress.methods.dml import mutual_loss
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.models.taps import Taps, TapShapes


def discriminator_loss(own: Tensor, other: Tensor) -> Tensor:
    """D(own)^2 + (1 - D(other))^2 of the log-odds that a discriminator gives each place of being the other network's:
    ``own`` and ``other`` of one shape, any float type. The mean, a float32 scalar."""
    return own.float().sigmoid().square().mean() + (-other.float()).sigmoid().square().mean()


def fooling_loss(own: Tensor) -> Tensor:
    """(1 - D(own))^2 of the log-odds that a discriminator gives each place of being the other network's. The mean, a
    float32 scalar."""
    return (-own.float()).sigmoid().square().mean()


def discriminator(channels: int, width: int) -> nn.Sequential:
    """[N, channels, H, W] -> the log-odds of each place, [N, 1, H, W]."""
    first, last = nn.Conv2d(channels, width, 3, 1, 1), nn.Conv2d(width, 1, 1)
    return nn.Sequential(first, nn.GroupNorm(1, width), nn.LeakyReLU(0.2), last)


@methods.register("afd")
class AFD(Method):
    """The student and its peers learn to have feature maps that a discriminator takes for another's, and learn from
    each other's class probabilities."""

    class Options(LogitOptions):
        weight: float = loss_weight(0.1, "Of fooling the discriminators.")
        mutual: float = Field(1.0, ge=0, description="Weight of what they learn from each other's probabilities.")
        temperature: float = softening(3.0, logits="each network's logits")
        discriminator: float = Field(
            0.1,
            ge=0,
            description="Weight of the discriminators' own loss, which moves nothing else: how fast they learn.",
        )
        width: int = Field(64, ge=2, le=65_536, description="Channels inside a discriminator.")

    family = "online"
    paper = "arXiv:2002.01775"
    needs = Needs(student="logits+stages", peers="logits+stages")

    def build(self, student: TapShapes, peers: list[TapShapes]) -> None:
        channels = [shapes.stages[-1].channels for shapes in (student, *peers)]
        following = [*channels[1:], channels[0]]
        self.adapters = nn.ModuleList(adapter(own, other) for own, other in zip(channels, following))
        self.discriminators = nn.ModuleList(discriminator(other, self.options.width) for other in following)

    def terms(self, batch: Batch, student: Taps, peers: list[Taps], progress: float) -> dict[str, Tensor]:
        o, members = self.options, (student, *peers)
        maps = [taps.stages[-1].float() for taps in members]
        told, fooled = [], []
        with in_float32(maps[0]):
            for own, other, adapt, judge in zip(maps, [*maps[1:], maps[0]], self.adapters, self.discriminators):
                own, other = same_size(adapt(own), other.detach())
                told.append(discriminator_loss(judge(own.detach()), judge(other)))
                fooled.append(fooling_loss(as_constant(judge, own)))
        return {
            "afd": o.weight * torch.stack(fooled).sum(),
            "mutual": o.mutual * mutual_loss([taps.logits for taps in members], o.temperature),
            "discriminators": o.discriminator * torch.stack(told).sum(),
        }
