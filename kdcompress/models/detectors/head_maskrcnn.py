"""Mask R-CNN. He, Gkioxari, Dollár and Girshick, ICCV 2017, arXiv:1703.06870: Faster R-CNN (head_fasterrcnn.py), and a
small mask of what is found.

Apart from the paper: masks are learnt from the objects' at a quarter of the image's resolution.
"""

from __future__ import annotations

from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from kdcompress.models.detectors import heads
from kdcompress.models.detectors.backbone import Backbone
from kdcompress.models.detectors.head_fasterrcnn import FasterRCNN, Options
from kdcompress.models.detectors.masked import MaskedAnswer
from kdcompress.models.detectors.towers import check_options

SIDE = 14  # of a region, in cells; its mask has twice as many


class MaskRCNN(FasterRCNN):
    """float [N, C, H, W] -> MaskedAnswer, for images of any size. ``depth``: convolutions that look at a region for its
    mask. ``found``: of an image, of which masks ship."""

    answer = MaskedAnswer

    def __init__(self, backbone: Backbone, classes: int, options: Options, depth: int, found: int):
        super().__init__(backbone, classes, options)
        width, looking = options.width, self.roi_heads
        looking.mask_roi_pool = MultiScaleRoIAlign(looking.box_roi_pool.featmap_names, SIDE, 2)
        looking.mask_head = MaskRCNNHeads(width, [width] * depth, 1)
        looking.mask_predictor = MaskRCNNPredictor(width, width, classes + 1)
        looking.detections_per_img = found


@heads.register("maskrcnn")
def maskrcnn(
    backbone: Backbone,
    classes: int,
    width: int = 64,
    levels: int = 5,
    hidden: int = 256,
    proposals: int = 256,
    samples: int = 512,
    scale: float = 8.0,
    depth: int = 4,
    found: int = 100,
) -> MaskRCNN:
    """``depth``: convolutions that look at a region for its mask. ``found``: objects of an image, at most, that ship.
    The others as of ``fasterrcnn``."""
    options = Options(width, levels, hidden, proposals, samples, scale).checked()
    check_options(depth=(depth, 0), found=(found, 1))
    return MaskRCNN(backbone, classes, options, depth, found)


maskrcnn.finest = 4  # type: ignore[attr-defined]  # as of fasterrcnn
