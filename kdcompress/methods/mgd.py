"""Masked Generative Distillation. Yang, Li, Shao, Shi, Yuan and Yuan, ECCV 2022, arXiv:2205.01529.

The public code masks places for detectors and segmenters and, for classifiers, channels of the last stage (0.15 of
them); here it is one method on every paired stage, and ``mask`` says which. Ours: the generating block is at most
``max_mid_channels`` wide inside, where the paper's is as wide as the teacher's stage.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.distributed import own_rows
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import adapter, same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps, TapShapes


def mgd_loss(student: Tensor, teacher: Tensor, keep: Tensor, generation: nn.Module) -> Tensor:
    """Mean squared difference between what ``generation`` makes of a masked map and the teacher's whole map.

    ``student`` and ``teacher`` are maps [N, C, H, W] of one size, of any float type; ``keep`` bool [N, 1, H, W] or
    [N, C, 1, 1]. A float32 scalar, averaged over all elements: its weight depends on neither width nor resolution. The
    paper sums over a map: its weight alpha is alpha * C * H * W here, so alpha = 7e-5 at ImageNet's 512x7x7 is 1.8, and
    2e-5 at 256 channels is 86 at a detector's level of 168x100, 5.4 at 42x25.
    """
    return F.mse_loss(generation(student.float() * keep).float(), teacher.float())


def generator(channels: int, mid: int) -> nn.Sequential:
    """The block that makes a whole map [N, channels, H, W] of a masked one: two 3x3 convolutions, a ReLU between."""
    return nn.Sequential(nn.Conv2d(channels, mid, 3, 1, 1), nn.ReLU(), nn.Conv2d(mid, channels, 3, 1, 1))


@methods.register("mgd")
class MGD(Method):
    """At each stage a small block learns to make the teacher's whole map from a part of the student's map."""

    class Options(MethodOptions):
        weight: float = stages_weight(20.0)
        masked: float = Field(
            0.65,
            ge=0,
            lt=1,
            description="Share of the student's map that is masked. 0.45 is for two-stage detectors.",
        )
        mask: Literal["places", "channels"] = Field(
            "places", description="What is masked: places of the map, or whole channels."
        )
        max_mid_channels: int = Field(
            512, ge=1, le=65_536, description="Channels inside the generating block, at most."
        )

    family = "feature"
    paper = "arXiv:2205.01529"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.adapters = nn.ModuleList(adapter(a, b) for a, b in widths)
        self.generators = nn.ModuleList(generator(b, min(b, self.options.max_mid_channels)) for _, b in widths)

    def keep(self, x: Tensor) -> Tensor:
        """Which places [N, 1, H, W] or channels [N, C, 1, 1] of maps [N, C, H, W] are not masked: random, bool."""
        shape = (x.shape[1], 1, 1) if self.options.mask == "channels" else (1, *x.shape[2:])
        return own_rows(lambda n: torch.rand(n, *shape, device=x.device), len(x)) >= self.options.masked

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        losses = []
        for adapt, generation, (s, t) in zip(self.adapters, self.generators, self.pairs):
            x, target = same_size(adapt(student.stages[s]), teacher.stages[t])
            losses.append(mgd_loss(x, target, self.keep(x), generation))
        return {"mgd": self.options.weight * sum(losses)}
