"""Structured Knowledge Distillation for Semantic Segmentation. Liu, Chen, Liu, Qin, Luo and Wang, CVPR 2019,
arXiv:1903.04197, sections 3.1 and 3.2: the logits of each place, and how alike the places of a map are.

The paper's third part, an adversarial network, is left out. A node is the average of its places, as in the paper; the
public code takes the maximum. Ours: a map has at most ``nodes`` x ``nodes`` of them, at the deepest paired stage.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import in_float32
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps

LEAST = 1e-3  # of a node's length


def nodes_of(maps: Tensor, most: int) -> Tensor:
    """Maps [N, C, H, W] -> unit vectors [N, P, C], float32, of at most ``most`` x ``most`` nodes. One shorter than
    ``LEAST`` stays shorter than 1: it has hardly a direction, and its gradient would have no bound."""
    size = (min(maps.shape[-2], most), min(maps.shape[-1], most))
    return F.normalize(F.adaptive_avg_pool2d(maps.float(), size).flatten(2), dim=1, eps=LEAST).transpose(1, 2)


def pairwise_loss(student: Tensor, teacher: Tensor, most: int) -> Tensor:
    """Mean squared difference of the cosines of all pairs of nodes of an image (equation 2 of the paper).

    ``student`` and ``teacher`` are maps [N, C, H, W] of any float type and any widths, of at most ``most`` x ``most``
    nodes each; where their sizes differ, at the smaller. A float32 scalar, averaged over pairs and images."""
    most = min(most, *student.shape[-2:], *teacher.shape[-2:])
    with in_float32(student):
        a, b = (nodes_of(maps, most) for maps in (student, teacher))
        return F.mse_loss(a @ a.transpose(1, 2), b @ b.transpose(1, 2))


@methods.register("skd")
class SKD(Method):
    """The student learns the teacher's logits place by place, and how alike the places of its deepest map are."""

    class Options(LogitOptions):
        weight: float = loss_weight(10.0, "Of the logits. The public code uses 10.")
        pairs: float = loss_weight(1.0, "Of the similarities of places. The public code uses 1.")
        temperature: float = softening(1.0, "The paper uses 1.")
        nodes: int = Field(8, ge=2, le=256, description="Places along each side of the map that are compared, at most.")

    family = "relation"
    paper = "arXiv:1903.04197"
    needs = Needs(student="logits+stages", teacher="logits+stages")

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, self.pairs[-1]
        pairs = pairwise_loss(student.stages[s], teacher.stages[t], o.nodes)
        logits = kd_loss(student.logits, teacher.logits, o.temperature)
        return {"skd": o.weight * logits, "skd-pairs": o.pairs * pairs}
