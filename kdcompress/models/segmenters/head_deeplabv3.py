"""DeepLabv3: Rethinking Atrous Convolution for Semantic Image Segmentation. Chen, Papandreou, Schroff and Adam 2017,
arXiv:1706.05587, section 3.3: dilated convolutions of several rates, side by side, and what is pooled of the image.

They look at the backbone's coarsest map. In the paper that has 1/16 or 1/8 of the image's resolution: a backbone of
timm keeps it there with ``backbone: {output_stride: 8}``. Ours: scores of the finest map are added, as in LR-ASPP.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.segmenters import heads
from kdcompress.models.segmenters.on_backbone import Segmenter, check_width, classifier, conv_norm_relu


class Head(nn.Module):
    """Maps shallow to deep -> logits [N, classes, h, w] at the size of the finest."""

    def __init__(self, channels: tuple[int, ...], classes: int, width: int, rates: Sequence[int]):
        super().__init__()
        deepest = channels[-1]
        self.branches = nn.ModuleList([conv_norm_relu(deepest, width, 1)])
        self.branches.extend(conv_norm_relu(deepest, width, 3, rate) for rate in rates)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(deepest, width, 1), nn.ReLU())
        self.joined = conv_norm_relu((2 + len(rates)) * width, width, 1)
        self.last = conv_norm_relu(width, width, 3)
        self.high = classifier(width, classes)
        self.low = classifier(channels[0], classes) if len(channels) > 1 else None

    def forward(self, maps: list[Tensor]) -> Tensor:
        low, high = maps[0], maps[-1]
        found = [branch(high) for branch in self.branches]
        found.append(self.pooled(high).expand_as(found[0]))
        scores: Tensor = self.high(self.last(self.joined(torch.cat(found, 1))))
        if self.low is None:
            return scores
        return self.low(low) + F.interpolate(scores, low.shape[-2:], mode="bilinear")


@heads.register("deeplabv3")
def deeplabv3(backbone: Backbone, classes: int, width: int = 64, rates: Sequence[int] = (6, 12, 18)) -> Segmenter:
    """``width``: channels of each branch. ``rates``: dilations of the convolutions of 3 x 3, in places of the coarsest
    map."""
    check_width(width)
    if not isinstance(rates, Sequence) or not all(isinstance(rate, int) and rate > 0 for rate in rates):
        raise UsageError("These are no dilations.", where="options.rates", got=rates, allowed="numbers from 1")
    return Segmenter(backbone, Head(backbone.channels, classes, width, rates))
