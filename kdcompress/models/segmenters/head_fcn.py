"""FCN: Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer and Darrell, CVPR 2015,
arXiv:1411.4038, section 4: each map gives scores, and the coarse ones are enlarged and added to the finer.

Apart from the paper: a convolution with a batch norm stands before the scores of the coarsest map, and scores are
enlarged bilinearly, without weights.
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
        self.deep = conv_norm_relu(channels[-1], width, 3)
        self.scores = nn.ModuleList(classifier(each, classes) for each in (*channels[:-1], width))

    def forward(self, maps: list[Tensor]) -> Tensor:
        *finer, last = maps
        found: Tensor = self.scores[-1](self.deep(last))
        for score, each in zip(reversed(self.scores[:-1]), reversed(finer)):
            found = score(each) + F.interpolate(found, each.shape[-2:], mode="bilinear")
        return found


@heads.register("fcn")
def fcn(backbone: Backbone, classes: int, width: int = 64) -> Segmenter:
    """``width``: channels before the scores of the coarsest map."""
    check_width(width)
    return Segmenter(backbone, Head(backbone.channels, classes, width))
