"""Detectors that look twice: at all places for regions, and at the best regions for what is there. Faster R-CNN, Ren,
He, Girshick and Sun, NeurIPS 2015, arXiv:1506.01497.

Layers, losses and the sampling of regions in training are torchvision's (``RegionProposalNetwork``, ``RoIHeads``). What
ships has static shapes: a fixed number of regions, and of these a fixed number of pairs of a region and a label, for
each label has a box of its own. A crowd is background.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from kdcompress.data.objects import BOX, CLASS, KIND, OBJECT
from kdcompress.models.detectors.head_retinanet import decoded
from kdcompress.models.detectors.regions import Limits, pooled, proposed, taken
from kdcompress.models.detectors.towers import clamped, flat, log_odds
from kdcompress.models.evaluating import evaluating

PAIRS = 1000  # that ship of an image, at most: as many as suppression looks at


class TwoStageAnswer(NamedTuple):
    """``maps`` by their names, [N, C, h, w]; ``objectness`` [N, A, h, w] and ``codes`` [N, 4 A, h, w] of each, with its
    ``anchors`` [h * w * A, 4]; ``regions`` [N, P, 4] in pixels, and which of them are ``proposals`` bool [N, P]; what
    the second stage says of them: ``labels`` logits [N, P, 1 + K], the background first, and ``boxes``
    [N, P, 1 + K, 4], coded. ``size`` is the image's height and width, ``of`` the detector."""

    maps: Mapping[str, Tensor]
    objectness: list[Tensor]
    codes: list[Tensor]
    anchors: list[Tensor]
    regions: Tensor
    proposals: Tensor
    labels: Tensor
    boxes: Tensor
    size: tuple[int, int]
    of: TwoStage

    @property
    def chosen(self) -> bool:
        """The places, by the network."""
        return True

    @property
    def logits(self) -> Tensor:
        """[N, P, K]: those whose sigmoid is the label's share of a region."""
        return log_odds(self.labels.float().log_softmax(2)[..., 1:])

    def at(self, other: TwoStageAnswer) -> TwoStageAnswer:
        """What this network says of another's regions."""
        labels, boxes = self.of.looked(self.maps, other.regions, self.size)
        return self._replace(regions=other.regions, proposals=other.proposals, labels=labels, boxes=boxes)

    def shipped(self) -> tuple[Tensor, ...]:
        """Boxes [N, D, 4] and scores [N, D, K] of the D best pairs of a region and a label, best first: a pair has the
        score of its label, and 0 for the others."""
        boxes, best, label = self.pairs()
        return boxes, self.scores(best, label)

    def scores(self, best: Tensor, label: Tensor) -> Tensor:
        """[N, D, K]: of each label, of pairs that have one label [N, D] each, which scores ``best`` [N, D]."""
        of_label = label[..., None] == torch.arange(self.labels.shape[2] - 1, device=label.device)
        return best[..., None] * of_label.float()

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The D best pairs of a region and a label, best first: boxes [N, D, 4], scores [N, D] and labels [N, D]."""
        count, classes = self.labels.shape[1], self.labels.shape[2] - 1
        shares = self.labels.float().softmax(2)[..., 1:] * self.proposals[..., None].float()
        best, pair = shares.flatten(1).topk(min(PAIRS, 2 * count, count * classes), 1)
        region = torch.div(pair, classes, rounding_mode="floor")
        label = pair - region * classes
        coded = taken(self.boxes.float().flatten(1, 2), region * (classes + 1) + label + 1)
        coded = coded / torch.tensor(self.of.roi_heads.box_coder.weights, device=coded.device)
        return clamped(decoded(taken(self.regions, region), coded), self.size), best, label

    def loss(self, y: Tensor) -> Tensor:
        """The sum of torchvision's losses; ``y`` float [N, M, 6] as in ``data.objects``. A float32 scalar: means over
        the anchors and the regions that are drawn, of the whole batch."""
        rpn, heads, targets = self.of.rpn, self.of.roi_heads, self.targets(y)
        maps = {name: map.float() for name, map in self.maps.items()}
        sizes, anchors = [self.size] * len(y), [torch.cat(self.anchors)] * len(y)
        counts = [len(each) for each in self.anchors]
        objectness, codes = concat_box_prediction_layers(
            [each.float() for each in self.objectness], [each.float() for each in self.codes]
        )
        found = rpn.box_coder.decode(codes.detach(), anchors).view(len(y), -1, 4)
        regions, _ = rpn.filter_proposals(found, objectness, sizes, counts)
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        first = rpn.compute_loss(objectness, codes, labels, rpn.box_coder.encode(matched, anchors))  # type: ignore[arg-type]
        regions, objects, classes, wanted = heads.select_training_samples(regions, targets)
        given = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, regions, sizes)))
        second = fastrcnn_loss(*(each.float() for each in given), classes, wanted)
        return torch.stack([*first, *second, *self.further(maps, targets, regions, objects, classes)]).sum()

    def targets(self, y: Tensor) -> list[dict[str, Tensor]]:
        """What torchvision learns from, image by image."""
        rows = [each[each[:, KIND] == OBJECT] for each in y]
        return [{"boxes": each[:, BOX], "labels": each[:, CLASS].long() + 1} for each in rows]

    def further(
        self,
        maps: Mapping[str, Tensor],
        targets: list[dict[str, Tensor]],
        regions: list[Tensor],
        objects: list[Tensor],
        classes: list[Tensor],
    ) -> list[Tensor]:
        """Losses of what else is learnt of the regions that are drawn, [R, 4] of each image, each with the number of an
        object and a class [R], 0 the background."""
        return []


class TwoStage(nn.Module):
    """float [N, C, H, W] -> TwoStageAnswer. ``rpn`` and ``roi_heads`` look at the maps that ``levels`` gives."""

    rpn: Any
    roi_heads: Any
    answer: type[TwoStageAnswer] = TwoStageAnswer

    def levels(self, x: Tensor) -> Mapping[str, Tensor]:
        """The maps by the names that ``roi_heads`` knows them by, fine to coarse."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> TwoStageAnswer:
        maps, size = self.levels(x), (x.shape[-2], x.shape[-1])
        objectness, codes = self.rpn.head(list(maps.values()))
        grids = [(map.shape[-2], map.shape[-1]) for map in maps.values()]
        generator = self.rpn.anchor_generator
        anchors = generator.grid_anchors(grids, [(size[0] // h, size[1] // w) for h, w in grids])
        anchors = [each.to(x.device) for each in anchors]
        with torch.no_grad():
            logits = [flat(each.float(), 1)[..., 0] for each in objectness]
            coded = [flat(each.float(), 4) for each in codes]
            regions, proposals = proposed(logits, coded, anchors, size, self.limits)
        labels, boxes = self.looked(maps, regions, size)
        return self.answer(maps, objectness, codes, anchors, regions, proposals, labels, boxes, size, self)

    @property
    def limits(self) -> Limits:
        """Of what ships, and of what methods on logits compare."""
        rpn = self.rpn
        candidates, proposals = rpn._pre_nms_top_n["testing"], rpn._post_nms_top_n["testing"]
        return Limits(candidates, proposals, rpn.nms_thresh, rpn.score_thresh, rpn.min_size)

    def looked(self, maps: Mapping[str, Tensor], regions: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What the second stage says of regions [N, P, 4]: logits [N, P, 1 + K] and coded boxes [N, P, 1 + K, 4]."""
        heads = self.roi_heads
        labels, boxes = self.seen(maps, regions, size, heads.box_roi_pool, heads.box_head, heads.box_predictor)
        count, classes = regions.shape[1], labels.shape[1]
        return labels.reshape(-1, count, classes), boxes.reshape(-1, count, classes, 4)

    def seen(
        self, maps: Mapping[str, Tensor], regions: Tensor, size: tuple[int, int], pool: Any, *layers: nn.Module
    ) -> Any:
        """What layers, one after the other, make of what torchvision's ``pool`` holds of regions [N, P, 4], all in one
        batch of N * P."""
        seen = [map for name, map in maps.items() if name in pool.featmap_names]
        found = pooled(seen, regions, size, pool.output_size[0], pool.sampling_ratio)
        # statistics of batch norms are those of the regions that are learnt from
        with evaluating(self.roi_heads) if self.training else nullcontext():
            for layer in layers:
                found = layer(found)
        return found


def first_stage(anchors: nn.Module, head: nn.Module, candidates: int, proposals: int) -> RegionProposalNetwork:
    """torchvision's, with its numbers for training; ``candidates`` and ``proposals`` as in ``Limits``."""
    before, after = {"training": 2000, "testing": candidates}, {"training": 2000, "testing": proposals}
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, before, after, 0.7)


def second_stage(pool: nn.Module, head: nn.Module, predictor: nn.Module, samples: int) -> RoIHeads:
    """torchvision's, with its numbers for training, which ``samples`` regions of an image are drawn for. The numbers of
    its suppression, which is not used, are 0."""
    return RoIHeads(pool, head, predictor, 0.5, 0.5, samples, 0.25, None, 0.0, 0.0, 0)
