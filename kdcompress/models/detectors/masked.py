"""Detectors that look a third time, at what is found, for its mask. Mask R-CNN, He, Gkioxari, Dollár and Girshick, ICCV
2017, arXiv:1703.06870.

Layers, loss and the regions that masks are learnt of are torchvision's. What ships has static shapes. Masks of all
regions would take far longer than all else: those ship that suppression will leave, and the best of the others where
these are too few. The suppression itself is outside, as of all detectors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import maskrcnn_loss

from kdcompress.boxes import suppressed
from kdcompress.data.objects import KIND, OBJECT, WIDTH
from kdcompress.models.detectors.regions import taken, unsuppressed
from kdcompress.models.detectors.towers import check_masks
from kdcompress.models.detectors.two_stage import TwoStageAnswer
from kdcompress.segments import SHARE

OVERLAP = (suppressed.__kwdefaults__ or {})["iou"]  # with a better one of its label: by more it is suppressed


class MaskedAnswer(TwoStageAnswer):
    """With masks of what is found."""

    def shipped(self) -> tuple[Tensor, ...]:
        """Boxes [N, D, 4] and scores [N, D, K] of D pairs of a region and a label, and masks [N, D, m, m], 0 to 1 in
        the cells of each box. First the best that overlap no better one of their label, then the others."""
        heads = self.of.roi_heads
        boxes, best, label = self.pairs()
        alone = unsuppressed(boxes, best > 0, OVERLAP, label)
        index = torch.where(alone, best, best - 1.0).topk(min(heads.detections_per_img, best.shape[1]), 1).indices
        boxes, best, label = taken(boxes, index), best.gather(1, index), label.gather(1, index)
        layers = heads.mask_roi_pool, heads.mask_head, heads.mask_predictor
        with torch.set_grad_enabled(self.labels.requires_grad):  # as where the answer was given
            masks = self.of.seen(self.maps, boxes, self.size, *layers).float()
        number = (label.flatten() + 1)[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        masks = masks.gather(1, number).sigmoid()
        return boxes, self.scores(best, label), masks.reshape(-1, index.shape[1], *masks.shape[2:])

    def targets(self, y: Tensor) -> list[dict[str, Tensor]]:
        """``y`` float [N, M, 6 + h * w] as in a batch (``data.outlined.with_masks``)."""
        height, width = (side // SHARE for side in self.size)
        check_masks(y, height * width)
        masks = [each[each[:, KIND] == OBJECT, WIDTH:].reshape(-1, height, width) for each in y]
        return [{**each, "masks": mask} for each, mask in zip(super().targets(y), masks, strict=True)]

    def further(
        self,
        maps: Mapping[str, Tensor],
        targets: list[dict[str, Tensor]],
        regions: list[Tensor],
        objects: list[Tensor],
        classes: list[Tensor],
    ) -> list[Tensor]:
        """Binary cross-entropy of the mask of the object's class, averaged over the cells of the regions that have an
        object (the paper's section 3). Masks have cells of ``SHARE`` pixels, whose middles are where torchvision takes
        whole numbers to be."""
        heads = self.of.roi_heads
        there = [each > 0 for each in classes]
        regions, objects = ([each[where] for each, where in zip(all, there, strict=True)] for all in (regions, objects))
        found = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(maps, regions, [self.size] * len(regions))))
        masks, labels = ([each[name] for each in targets] for name in ("masks", "labels"))
        return [maskrcnn_loss(found.float(), [each / SHARE - 0.5 for each in regions], masks, labels, objects)]
