"""torchvision's Faster R-CNN and Mask R-CNN, by name, giving dense answers.

The network, its anchors and its losses are torchvision's own; ``rpn_post_nms_top_n_test`` is the number of regions that
are looked at, and ``box_detections_per_img`` that of Mask R-CNN's objects that ship. What it does to images before them
is left out: they come normalised, and at the size that they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdcompress.models.detectors.masked import MaskedAnswer
from kdcompress.models.detectors.two_stage import TwoStage


class TorchvisionTwoStage(TwoStage):
    """float [N, C, H, W] -> TwoStageAnswer, of a torchvision detector, whose parameters keep their names."""

    def __init__(self, detector: Any):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = detector.backbone, detector.rpn, detector.roi_heads
        if self.roi_heads.has_mask():
            self.answer = MaskedAnswer
        self.pool = nn.Identity()  # a place to take the pyramid's last map at, which is pooled by a function

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: the pyramid's levels."""
        blocks: Any = self.backbone.fpn.layer_blocks
        return (*(f"backbone.fpn.layer_blocks.{i}" for i in range(len(blocks))), "pool")

    def levels(self, x: Tensor) -> Mapping[str, Tensor]:
        maps: dict[str, Tensor] = self.backbone(x)
        return {**maps, "pool": self.pool(maps["pool"])}


def swap_labels(detector: Any, old: int, new: int, kept: list[int] | None) -> None:
    """The last layers for ``new`` labels, the background among them, in place of ``old``: those of the numbers
    ``kept``, or drawn anew as torchvision does."""
    heads = detector.roi_heads
    of = [(heads.box_predictor, "cls_score", 1), (heads.box_predictor, "bbox_pred", 4)]
    if heads.has_mask():
        of.append((heads.mask_predictor, "mask_fcn_logits", 1))
    for predictor, name, each in of:
        before = getattr(predictor, name)
        if isinstance(before, nn.Linear):
            after: nn.Module = nn.Linear(before.in_features, new * each)
        else:
            after = nn.Conv2d(before.in_channels, new, 1)
            nn.init.kaiming_normal_(after.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(after.bias)  # type: ignore[arg-type]
        if kept is not None:
            for part in ("weight", "bias"):
                rows = getattr(before, part).detach().unflatten(0, (old, each))[kept]
                setattr(after, part, nn.Parameter(rows.flatten(0, 1).contiguous()))
        setattr(predictor, name, after)
