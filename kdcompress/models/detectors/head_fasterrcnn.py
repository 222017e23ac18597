"""Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks. Ren, He, Girshick and Sun,
NeurIPS 2015, arXiv:1506.01497, on a feature pyramid (Lin et al., CVPR 2017, arXiv:1612.03144, section 4).

Apart from the papers: the pyramid is the project's, with batch norms, which fold; its last level comes from a
convolution with stride 2, not from a pooling; and fewer regions are looked at (``proposals``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from kdcompress.models.detectors import heads
from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.detectors.pyramid import Pyramid
from kdcompress.models.detectors.towers import check_options
from kdcompress.models.detectors.two_stage import TwoStage, first_stage, second_stage

RATIOS = (0.5, 1.0, 2.0)  # height / width of anchors
SIDE = 7  # of a region, in cells


class Options(NamedTuple):
    width: int
    levels: int
    hidden: int
    proposals: int
    samples: int
    scale: float

    def checked(self) -> Options:
        """Themselves. Raises UsageError for those that cannot be."""
        check_options(width=(self.width, 4), levels=(self.levels, 1), hidden=(self.hidden, 4), scale=(self.scale, 0.5))
        check_options(proposals=(self.proposals, 1), samples=(self.samples, 1))
        return self


class FasterRCNN(TwoStage):
    """float [N, C, H, W] -> TwoStageAnswer, for images of any size. Regions are looked at in the levels that the
    backbone has maps of."""

    def __init__(self, backbone: Backbone, classes: int, options: Options):
        super().__init__()
        width, hidden, levels = options.width, options.hidden, options.levels
        self.pyramid = Pyramid(backbone, width, levels)
        anchors = AnchorGenerator(
            tuple((round(options.scale * stride),) for stride in self.pyramid.strides), (RATIOS,) * levels
        )
        self.rpn = first_stage(anchors, RPNHead(width, len(RATIOS)), 2 * options.proposals, options.proposals)
        pool = MultiScaleRoIAlign([str(i) for i in range(len(backbone.channels))], SIDE, 2)
        head, predictor = TwoMLPHead(width * SIDE**2, hidden), FastRCNNPredictor(hidden, classes + 1)
        self.roi_heads = second_stage(pool, head, predictor, options.samples)

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: the pyramid's levels."""
        return tuple(f"pyramid.{path}" for path in self.pyramid.paths)

    def levels(self, x: Tensor) -> Mapping[str, Tensor]:
        return {str(i): map for i, map in enumerate(self.pyramid(x))}


@heads.register("fasterrcnn")
def fasterrcnn(
    backbone: Backbone,
    classes: int,
    width: int = 64,
    levels: int = 5,
    hidden: int = 256,
    proposals: int = 256,
    samples: int = 512,
    scale: float = 8.0,
) -> FasterRCNN:
    """``width``: channels of the pyramid. ``levels``: of the pyramid. ``hidden``: width of the two layers that look at
    a region. ``proposals``: regions of an image that are looked at. ``samples``: regions of an image that are learnt
    from. ``scale``: the side of anchors, in strides."""
    options = Options(width, levels, hidden, proposals, samples, scale).checked()
    return FasterRCNN(backbone, classes, options)


fasterrcnn.finest = 4  # type: ignore[attr-defined]  # its regions are looked at in finer maps than one-stage heads look at
