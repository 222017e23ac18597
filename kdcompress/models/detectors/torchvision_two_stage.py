"""torchvision's Faster R-CNN, by name, giving dense answers.

The network, its anchors and its losses are torchvision's own; ``rpn_post_nms_top_n_test`` is the number of regions that
are looked at. What it does to images before them is left out: they come normalised, and at the size that they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdcompress.models.detectors.two_stage import TwoStage


class TorchvisionTwoStage(TwoStage):
    """float [N, C, H, W] -> TwoStageAnswer, of a torchvision detector, whose parameters keep their names."""

    def __init__(self, detector: Any):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = detector.backbone, detector.rpn, detector.roi_heads
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
    predictor = detector.roi_heads.box_predictor
    for name, each in (("cls_score", 1), ("bbox_pred", 4)):
        before = getattr(predictor, name)
        after = nn.Linear(before.in_features, new * each)
        if kept is not None:
            for part in ("weight", "bias"):
                rows = getattr(before, part).detach().unflatten(0, (old, each))[kept]
                setattr(after, part, nn.Parameter(rows.flatten(0, 1).contiguous()))
        setattr(predictor, name, after)
