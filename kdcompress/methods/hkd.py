"""Distilling Holistic Knowledge with Graph Neural Networks (HKD). Zhou, Wang, Chen, Chen, Wang, Wang and Bu, ICCV 2021,
arXiv:2108.05507.

Different here: the negatives are the other images of the batch; the authors' code draws 16384 from a memory of all
images. Neighbours are found by the cosine of pooled features (there, of the classes' probabilities), so that networks
of any task can be taught. A hop is the mean of the neighbours (there, their sum, scaled by both degrees). An image is
no neighbour of itself, as its own embedding is hop 0. The code has the loss of the embeddings before the graph too,
which is near to ``crd``'s: for that, name ``crd`` as a second method.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import neighbours, pooled, pooled_widths, products
from kdcompress.models.taps import Taps, TapShapes


def nce_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """InfoNCE both ways between embeddings [N, D] of norm 1: -log of exp(s_i . t_i / temperature) over the mean of that
    over the images j of the batch, of s_i . t_j and of s_j . t_i. Averaged over the batch, both ways summed; float32.

    The usual sum over j in place of the mean adds log N each way: no gradient, but another loss for each batch size."""
    scores = products(student, teacher) / temperature
    own, n = scores.diagonal(), math.log(len(scores))
    return (scores.logsumexp(1) - own - n).mean() + (scores.logsumexp(0) - own - n).mean()


def hops(x: Tensor, edges: Tensor, count: int) -> Tensor:
    """x [N, D], the mean over its neighbours, that over theirs, and so on, ``count`` times, side by side: float32
    [N, (1 + count) D]. ``edges`` float32 [N, N] are 1 / k for a row's k neighbours."""
    found = [x.float()]
    for _ in range(count):
        found.append(products(edges, found[-1].mT))
    return torch.cat(found, 1)


class Holistic(nn.Module):
    """Features [N, D] -> embeddings float32 [N, width] of norm 1 that hold an image and its neighbourhood: a topology
    adaptive graph convolution (Du et al., 2017, arXiv:1710.10370) on the graph of the nearest images."""

    def __init__(self, features: int, width: int, nearest: int, count: int):
        super().__init__()
        self.nearest, self.count = nearest, count
        self.embed = nn.Linear(features, width)
        self.convolve = nn.Linear((1 + count) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        embedding = F.normalize(self.embed(x).float(), dim=1)
        return F.normalize(self.convolve(hops(embedding, neighbours(x, self.nearest), self.count)).float(), dim=1)


@methods.register("hkd")
class HKD(Method):
    """The student's features, joined with those of their neighbours in the batch, learn to be the teacher's of the same
    image, and not those of others."""

    class Options(MethodOptions):
        weight: float = loss_weight(3.0, "The official code's example uses 3.")
        neighbours: int = Field(
            8, ge=1, le=65_536, description="Images of the batch that each is joined with. The official code uses 8."
        )
        hops: int = Field(
            1,
            ge=1,
            le=10,
            description="How far images are joined. 1: to their neighbours, as the official code. 2: with theirs too.",
        )
        dim: int = Field(
            128, ge=1, le=65_536, description="Width of the embeddings that are compared. The official code uses 128."
        )
        temperature: float = Field(
            0.07,
            ge=0.01,
            le=1000,
            description="Temperature of the contrastive loss: similarities are divided by it. The official "
            "code uses 0.07.",
        )

    family = "relation"
    paper = "arXiv:2108.05507"
    needs = Needs(student="logits+pooled", teacher="pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        o = self.options
        self.sides = nn.ModuleList(
            Holistic(features, o.dim, o.neighbours, o.hops) for features in pooled_widths(student, teacher)
        )

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        ours, theirs = (side(x) for side, x in zip(self.sides, pooled(student, teacher)))
        return {"hkd": self.options.weight * nce_loss(ours, theirs, self.options.temperature)}
