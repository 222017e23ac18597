"""A Comprehensive Overhaul of Feature Distillation. Heo, Kim, Yun, Park, Kwak and Choi, ICCV 2019, arXiv:1904.01866.

Different here: the margins are measured on the teacher's maps at the beginning of the training. (The paper derives them
from the weights of the batch norm before the activation, which not every teacher has.) The teacher is in eval mode.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.distributed import reduced
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import regressor, same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps, TapShapes


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial L2 distance to the teacher's map after a margin ReLU (section 3 of the paper): the target is
    max(t, margin), and where it is not above 0 a student below it is left alone.

    ``student`` and ``teacher`` are maps [N, C, H, W] of one size, of any float type, before their activation;
    ``margin`` [C] is not above 0. A float32 scalar, averaged over all elements: its weight depends on neither width nor
    resolution. The reference sums over a map, with weight 1 / 1000 at the deepest stage and half of it at each
    shallower one, where there are twice as many elements: 0.001 * C * H * W of the teacher's deepest for each here.
    """
    student, target = student.float(), torch.maximum(teacher.float(), margin[:, None, None])
    counts = (student > target) | (target > 0)
    return torch.where(counts, student - target, 0.0).square().mean()


class Margin(nn.Module):
    """The mean of each channel's negative values, E[x | x < 0], over all maps [N, C, H, W] seen; 0 where none is."""

    total: Tensor
    count: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("total", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, x: Tensor, learn: bool) -> Tensor:
        if learn:
            self.total += reduced(x.float().clamp(max=0).sum((0, 2, 3)), "SUM")
            self.count += reduced((x < 0).sum((0, 2, 3)), "SUM")
        return self.total / self.count.clamp(min=1)


@methods.register("ofd")
class OFD(Method):
    """The student's stages learn what the activations of the teacher's stages let through."""

    class Options(MethodOptions):
        weight: float = stages_weight(
            8.0,
            "The reference code's weight is 4, 8 or 16 here, where the teacher's deepest map is 64x8x8, "
            "128x8x8 or 256x8x8.",
        )
        margin_share: float = Field(
            0.01,
            ge=0,
            le=1,
            description="Share of the training, at its start, in which the margins are measured on the teacher's maps.",
        )

    family = "feature"
    paper = "arXiv:1904.01866"
    needs = Needs(student="stages(pre)", teacher="stages(pre)")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.connectors = nn.ModuleList(regressor(a, b) for a, b in widths)
        self.margins = nn.ModuleList(Margin(b) for _, b in widths)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        learn, losses = self.training and progress <= self.options.margin_share, []
        for connect, margin, (s, t) in zip(self.connectors, self.margins, self.pairs):
            x, target = same_size(connect(student.stages[s]), teacher.stages[t])
            losses.append(ofd_loss(x, target, margin(target, learn)))
        return {"ofd": self.options.weight * sum(losses)}
