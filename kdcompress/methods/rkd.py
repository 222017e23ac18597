"""Relational Knowledge Distillation. Park, Kim, Lu and Cho, CVPR 2019, arXiv:1904.05068."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.relations import pooled, pooled_widths, products
from kdcompress.models.taps import Taps, TapShapes

ELEMENTS = 2**23  # of one tensor of the angle term, 32 MiB in float32


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the distances between the rows of features [N, D] and [N, E], each side's divided by their mean
    over the pairs (section 3.2.1); float32, averaged over the N^2 ordered pairs."""

    def distances(x: Tensor) -> Tensor:
        d = torch.cdist(x.float(), x.float(), compute_mode="donot_use_mm_for_euclid_dist")
        return d / (d.sum() / max(1, len(d) * (len(d) - 1))).clamp(min=1e-12)

    return F.smooth_l1_loss(distances(student), distances(teacher))


def angle_loss(student: Tensor, teacher: Tensor, chunk: int = 0) -> Tensor:
    """Huber loss of the cosines of the angles that rows i and k of features [N, D] and [N, E] form at row j (section
    3.2.2); float32, averaged over the N^3 triplets.

    ``chunk`` anchors j at a time (0: as many as keep each tensor below 2^23 elements), the backward pass computing
    them again, so that memory is not O(N^3)."""
    n = len(student)
    chunk = chunk or max(1, ELEMENTS // (n * max(n, student.shape[1], teacher.shape[1])))

    def cosines(x: Tensor, anchors: slice) -> Tensor:
        e = x.float()[None] - x.float()[anchors, None]
        length = e.norm(dim=2, keepdim=True)
        e = e / length.masked_fill(length == 0, torch.inf)  # equal rows: no direction, and no gradient
        return products(e, e)

    def part(student: Tensor, teacher: Tensor, anchors: slice) -> Tensor:
        return F.smooth_l1_loss(cosines(student, anchors), cosines(teacher, anchors), reduction="sum")

    if chunk >= n:
        return part(student, teacher, slice(n)) / n**3
    parts = [
        checkpoint(part, student, teacher, slice(j, j + chunk), use_reentrant=False, preserve_rng_state=False)
        for j in range(0, n, chunk)
    ]
    return torch.stack(parts).sum() / n**3


@methods.register("rkd")
class RKD(Method):
    """The student learns the distances between images in the teacher's pooled features, and the angles among three."""

    class Options(MethodOptions):
        distance_weight: float = Field(
            25.0, ge=0, description="Weight of the loss on distances between two images. The reference code uses 25."
        )
        angle_weight: float = Field(
            50.0, ge=0, description="Weight of the loss on angles between three images. The reference code uses 50."
        )

    family = "relation"
    paper = "arXiv:1904.05068"
    needs = Needs(student="logits+pooled", teacher="pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        pooled_widths(student, teacher)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, pooled(student, teacher)
        return {"distance": o.distance_weight * distance_loss(s, t), "angle": o.angle_weight * angle_loss(s, t)}
