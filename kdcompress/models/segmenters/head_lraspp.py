"""LR-ASPP: Searching for MobileNetV3. Howard et al., ICCV 2019, arXiv:1905.02244, section 6.4: the coarsest map,
weighed by what is pooled of it, and scores of the finest.

Apart from the paper: the whole map is pooled, as in torchvision, and not windows of 49 x 49.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.segmenters import heads
from kdcompress.models.segmenters.on_backbone import Segmenter, check_width, classifier, conv_norm_relu


class Head(nn.Module):
    """Maps shallow to deep -> logits [N, classes, h, w] at the size of the finest."""

    def __init__(self, channels: tuple[int, ...], classes: int, width: int):
        super().__init__()
        self.deep = conv_norm_relu(channels[-1], width, 1)
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], width, 1, bias=False), nn.Sigmoid())
        self.low, self.high = classifier(channels[0], classes), classifier(width, classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        low, high = maps[0], maps[-1]
        weighed = self.deep(high) * self.scale(high)
        found: Tensor = self.low(low) + self.high(F.interpolate(weighed, low.shape[-2:], mode="bilinear"))
        return found


@heads.register("lraspp")
def lraspp(backbone: Backbone, classes: int, width: int = 64) -> Segmenter:
    """``width``: channels of the coarsest map's branch."""
    check_width(width)
    return Segmenter(backbone, Head(backbone.channels, classes, width))
