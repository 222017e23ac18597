"""Distilling Knowledge via Knowledge Review. Chen, Liu, Zhao and Jia, CVPR 2021, arXiv:2104.09044.

The student's deeper features review its shallower ones: from the pooled feature up, attention-based
fusion (ABF) merges each stage with what came from below it, and the hierarchical context loss (HCL)
compares the result with the teacher's stage, before its activation, at several pooled sizes.

Where the reference implementation departs from the paper, this follows the paper: the teacher is in
eval mode (its batch norms neither use nor update batch statistics); teacher maps are taken before
the activation even where that is in place; stages are matched by resolution, never by list
position; the fusion modules are trained with the student, saved in its checkpoints and dropped from
what ships.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import in_float32
from kdcompress.methods.fields import loss_weight, rising
from kdcompress.models.taps import Taps, TapShapes


class ABF(nn.Module):
    """Attention-based fusion (section 3.3, figure 4a): two 1-channel attention maps, made from both
    inputs, weigh this stage's feature and the one from the deeper stage before they are added."""

    def __init__(self, channels: int, mid: int, out: int, fuse: bool):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.expand = nn.Sequential(nn.Conv2d(mid, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid()) if fuse else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """``x`` [N, C, h, w] of this stage, ``deeper`` [N, mid, h', w'] fused so far; returns the
        transformed feature [N, out, *size] and what is passed on [N, mid, *size]."""
        x = self.reduce(x)
        if self.attention is not None and deeper is not None:
            # A 1x1 convolution of both, side by side, is the sum of two, and the deeper one's can come before it grows.
            convolution = self.attention[0]
            assert isinstance(convolution, nn.Conv2d)
            for_x, for_deeper = convolution.weight.split(x.shape[1], dim=1)
            grow = partial(F.interpolate, size=x.shape[-2:], mode="nearest")
            z = (F.conv2d(x, for_x, convolution.bias) + grow(F.conv2d(deeper, for_deeper))).sigmoid()
            x = x * z[:, :1] + grow(deeper) * z[:, 1:]
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="nearest")
        return self.expand(x), x


def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss (section 3.3, figure 4b) of two maps [N, C, H, W]: the mean squared
    difference, plus that of the maps average-pooled to 4x4, 2x2 and 1x1 (those smaller than H) with
    weights 1/2, 1/4, 1/8, divided by the sum of the weights. A float32 scalar, averaged over all
    elements, so it does not depend on the batch size. Pooling is linear: the difference is pooled,
    to all sizes at once, by one matrix product."""
    n, c, height, width = student.shape
    difference = (student.float() - teacher.float()).permute(0, 2, 3, 1).reshape(n, height * width, c)
    loss = difference.square().mean()
    total, weight, scales = 1.0, 1.0, []
    for size in (4, 2, 1):
        if size < height:
            weight /= 2
            total += weight
            scales.append((weight / size**2) ** 0.5 * pooling(height, width, size, student.device))
    if scales:
        with in_float32(student):
            loss = loss + (torch.cat(scales) @ difference).square().sum() / (n * c)
    return loss / total


def pooling(height: int, width: int, size: int, device: torch.device) -> Tensor:
    """Adaptive average pooling of a map to ``size`` x ``size`` as a matrix [size^2, height * width]."""
    rows, columns = (F.adaptive_avg_pool1d(torch.eye(n, device=device), size).T for n in (height, width))
    return torch.kron(rows.contiguous(), columns.contiguous())


@methods.register("reviewkd")
class ReviewKD(Method):
    """The student fuses its stages from deep to shallow (ABF). Each fused stage learns the teacher's stage (HCL,
    algorithm 1)."""

    class Options(MethodOptions):
        weight: float = loss_weight(
            1.0, "The reference code uses 0.6 to 8 on CIFAR-100, depending on the networks; 1 or 8 on ImageNet."
        )
        warmup: float = rising(1 / 12, "The paper uses 20 of 240 epochs.")
        max_mid_channels: int = Field(
            512, ge=1, le=65_536, description="Channels inside a fusion module, at most. The reference code uses 512."
        )

    family = "feature"
    paper = "arXiv:2104.09044"
    needs = Needs(student="stages+pooled", teacher="stages(pre)+pooled")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        channels = [student.stages[s].channels for s, _ in self.pairs]
        out = [teacher.stages[t].channels for _, t in self.pairs]
        self.sizes = [(teacher.stages[t].height, teacher.stages[t].width) for _, t in self.pairs]
        self.pooled = False
        if student.pooled is not None and teacher.pooled is not None:
            self.pooled = True
            channels, out, self.sizes = [*channels, student.pooled], [*out, teacher.pooled], [*self.sizes, (1, 1)]
        mid = min(self.options.max_mid_channels, channels[-1])
        deepest = len(channels) - 1
        self.fusions = nn.ModuleList(ABF(c, mid, o, fuse=i < deepest) for i, (c, o) in enumerate(zip(channels, out)))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        xs = [student.stages[s] for s, _ in self.pairs]
        targets = [teacher.stages[t] for _, t in self.pairs]
        if self.pooled and student.pooled is not None and teacher.pooled is not None:
            xs, targets = [*xs, student.pooled[..., None, None]], [*targets, teacher.pooled[..., None, None]]
        loss, deeper = torch.zeros((), device=student.logits.device), None
        for fusion, x, target, size in reversed(list(zip(self.fusions, xs, targets, self.sizes))):
            out, deeper = fusion(x, deeper, size)
            loss = loss + hcl_loss(out, target)
        return {"review": self.options.weight * loss}
