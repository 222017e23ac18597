"""Feature pre-distillation: a backbone learns how a teacher's features are alike, from images alone, whatever its task
will be. LightlyTrain's third distillation (2026), which has no paper; the idea of a queue of the teacher's features is
that of SEED (Fang et al., ICLR 2021, arXiv:2101.04731).

Two similarities are taught: of an image to images that the teacher saw before, by pooled features, and of each place of
a map to the other places. Both networks see the same mixed images (`mixup: 1`).

Ours, written from the formulas. The queue has at most half as many features as there are images, so that it holds no
image twice; it is empty at first, and what is not there yet does not count. A network without a pooled feature, such as
a detector, learns by the stage whose resolution is nearest to that of the teacher's map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.distributed import gathered
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import in_float32
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.skd import LEAST
from kdcompress.models.taps import Stage, Taps, TapShapes

HIDDEN = -1e4  # the logit of what does not count: finite, so that gradients are


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) of similarities [..., K], float32, in nats: summed over the last
    dimension and averaged over the others; a scalar."""
    log_p, log_q = (F.log_softmax(x / temperature, dim=-1).flatten(0, -2) for x in (student, teacher))
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def global_loss(student: Tensor, teacher: Tensor, queue: Tensor, known: Tensor | int, temperature: float) -> Tensor:
    """KL(softmax(t Q^T / T) || softmax(s Q^T / T)), in nats, averaged over the batch: how alike each image is to those
    of the queue, for the teacher and for the student.

    ``student`` and ``teacher`` are features [N, D] of any float type, scaled to length 1 here; ``queue`` [Q, D] has
    that length already, and its first ``known`` rows count, an int64 scalar. A float32 scalar, 0 where none is known.
    """
    with in_float32(student):
        s, t = (F.normalize(x.float(), dim=1, eps=LEAST) @ queue.float().T for x in (student, teacher))
    unknown = torch.arange(len(queue), device=queue.device) >= known
    s, t = (x.masked_fill(unknown, HIDDEN) for x in (s, t))
    return divergence(s, t, temperature)


def local_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL of the softmax over each row of F F^T / T, where F has a unit vector for each place of a map: how alike each
    place of an image is to all of its places. In nats, averaged over places and batch.

    ``student`` and ``teacher`` are maps [N, C, H, W] of any float type and any width; where their sizes differ, the
    student's is resized to the teacher's, bilinearly. A float32 scalar.
    """
    s, t = student.float(), teacher.float()
    if s.shape[-2:] != t.shape[-2:]:
        s = F.interpolate(s, t.shape[-2:], mode="bilinear", align_corners=False)
    with in_float32(student):
        places = (F.normalize(x.flatten(2), dim=1, eps=LEAST) for x in (s, t))
        s, t = (x.mT @ x for x in places)
    return divergence(s, t, temperature)


def nearest(stages: Sequence[Stage], to: Stage | None) -> int:
    """The place of the stage whose share of its input's resolution is nearest to that of another one."""
    assert to is not None  # needs
    return min(range(len(stages)), key=lambda place: abs(math.log(stages[place].reduction / to.reduction)))


@methods.register("feature-pretraining")
class FeaturePretraining(Method):
    """The student learns which images the teacher finds alike, and which places of an image. It needs no labels."""

    class Options(MethodOptions):
        weight: float = loss_weight(1.0, "Of the similarities of images. The public code uses 1.")
        local: float = Field(
            1.0,
            ge=0,
            description="Weight of the loss of the similarities of places, at the teacher's resolution. The public "
            "code uses 1. 0: none, which saves memory where the teacher has many places.",
        )
        temperature: float = Field(
            0.07,
            ge=0.001,
            le=1000,
            description="Cosines are divided by it before the softmax. The public code uses 0.07.",
        )
        queue: int = Field(
            8192,
            ge=1,
            le=1_000_000,
            description="Images that each image is compared with, the last ones that the teacher saw; at most half as "
            "many as there are images. The public code uses 16 to 8192.",
        )

    family = "feature"
    paper = "arXiv:2101.04731"
    needs = Needs(student="pooled+last+stages", teacher="pooled+last")
    queue: Tensor
    known: Tensor

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if teacher.pooled is None:
            raise UsageError(
                "The teacher has no pooled feature to compare images by.",
                allowed="a network that gives features, or one that ends in a linear layer",
                hint="take the network without its head: a model of timm, or a callable of your own",
            )
        # a dense answer has no feature of the whole image
        self.whole = student.pooled is not None and student.places == 1
        self.stage = 0 if self.whole else nearest(student.stages, teacher.last)
        width = student.pooled if student.pooled and self.whole else student.stages[self.stage].channels
        self.project = nn.Linear(width, teacher.pooled)
        size = min(self.options.queue, max(1, self.images // 2)) if self.images else self.options.queue
        self.register_buffer("queue", torch.zeros(size, teacher.pooled))
        self.register_buffer("known", torch.zeros((), dtype=torch.int64))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, theirs, map = self.options, teacher.pooled, student.last if self.whole else student.stages[self.stage]
        assert theirs is not None and map is not None and teacher.last is not None  # needs
        mine = student.pooled if self.whole else map.mean((2, 3))
        queue, known = self.queue.clone(), self.known.clone()  # as it was: this batch's own are not among them
        if self.training:
            self.remember(theirs, len(batch.y))
        terms = {"global": o.weight * global_loss(self.project(mine), theirs, queue, known, o.temperature)}
        if o.local:
            terms["local"] = o.local * local_loss(map, teacher.last, o.temperature)
        return terms

    @torch.no_grad()
    def remember(self, features: Tensor, rows: int) -> None:
        """The teacher's features [N, D] of a batch, of all processes, enter the queue; the oldest leave it. ``rows``:
        how many belong together, as in ``gathered``."""
        new = F.normalize(gathered(features.float(), rows or len(features)), dim=1, eps=LEAST)
        self.queue.copy_(torch.cat([new, self.queue])[: len(self.queue)])
        self.known.add_(len(new)).clamp_(max=len(self.queue))
