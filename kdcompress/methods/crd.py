"""Contrastive Representation Distillation. Tian, Krishnan and Isola, ICLR 2020, arXiv:1910.10699.

Different from the authors' code: negatives are drawn on the device, once for the whole batch, so they are a matrix [K,
dim] and not [N, K, dim]. Images of the anchor's class are masked afterwards, as far as they were seen. An image's first
embedding enters the memory as it is, not averaged with noise. The memory takes the embeddings of a batch before its
positives are read.

The memories take images x 2 x dim x 4 bytes (51 MB for CIFAR-100, 1.3 GB for ImageNet) on the device and in each
checkpoint.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import pooled, pooled_widths, products
from kdcompress.models.taps import Taps, TapShapes


def nce_loss(positive: Tensor, negative: Tensor, allowed: Tensor, log_z: Tensor | float, images: int) -> Tensor:
    """Noise-contrastive estimation: -log h(positive) - sum over K of log(1 - h(negative)), averaged over the batch,
    with h = P / (P + K / images), P = exp(similarity / temperature) / Z (section 3.1; Z is the authors' code's).

    ``positive`` [N] and ``negative`` [N, K] are similarities / temperature; negatives that are not ``allowed``
    (bool [N, K]) do not count, and the others' sum is scaled up to K. Float32, in log space."""
    k = negative.shape[1]
    offset = log_z + math.log(k / images)
    repelled = (F.softplus(negative.float() - offset) * allowed).sum(1) * (k / allowed.sum(1).clamp(min=1))
    return (F.softplus(offset - positive.float()) + repelled).mean()


@methods.register("crd")
class CRD(Method):
    """The student's features learn to be near the teacher's of the same image, and far from those of other classes."""

    class Options(MethodOptions):
        weight: float = loss_weight(0.8, "The reference code uses 0.8.")
        dim: int = Field(
            128, ge=1, le=65_536, description="Width of the embeddings that are compared. The reference code uses 128."
        )
        negatives: int = Field(
            16384,
            ge=1,
            le=1_000_000,
            description="Images that each image is compared with, at most as many as there are training "
            "images. Those of its own class do not count. The reference code uses 16384.",
        )
        temperature: float = Field(
            0.07,
            ge=0.01,
            le=1000,
            description="Temperature of the contrastive loss: similarities are divided by it. The reference "
            "code uses 0.07.",
        )
        momentum: float = Field(
            0.5,
            ge=0,
            lt=1,
            description="Share of the old embedding that the memory keeps when an image is seen again. The "
            "reference code uses 0.5.",
        )

    family = "relation"
    paper = "arXiv:1910.10699"
    needs = Needs(student="logits+pooled", teacher="pooled", index=True, whole_batch=True, one_label=True, truth=True)
    banks: Tensor
    labels: Tensor
    log_z: Tensor

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if not self.images:
            raise UsageError(
                "crd remembers every training image and does not know how many there are.",
                hint="give images=, the number of training images",
            )
        self.embeds = nn.ModuleList(nn.Linear(d, self.options.dim) for d in pooled_widths(student, teacher))
        self.register_buffer("banks", F.normalize(torch.randn(2, self.images, self.options.dim), dim=2))
        self.register_buffer("labels", torch.full((self.images,), -1))
        self.register_buffer("log_z", torch.full((2,), torch.nan))  # from the first batch

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        assert batch.index is not None  # needs.index
        features = zip(self.embeds, pooled(student, teacher))
        own = [F.normalize(embed(x[: len(batch.y)]).float(), dim=1) for embed, x in features]
        keys = self.remember(batch.index, batch.y, own)
        drawn = torch.randint(self.images, (min(self.options.negatives, self.images),), device=batch.y.device)
        allowed = self.labels[drawn] != batch.y[:, None]
        loss = own[0].new_zeros(())
        for side, other in ((0, 1), (1, 0)):
            positive = (own[side] * keys[other]).sum(1) / self.options.temperature
            negative = products(own[side], self.banks[other][drawn]) / self.options.temperature
            loss = loss + nce_loss(positive, negative, allowed, self.partition(side, positive, negative), self.images)
        return {"crd": self.options.weight * loss}

    @torch.no_grad()
    def remember(self, index: Tensor, y: Tensor, own: list[Tensor]) -> list[Tensor]:
        """The memory's embeddings of these images, both sides', once the new ones have entered."""
        kept = self.options.momentum * (self.labels[index] >= 0)[:, None]
        keys = [F.normalize(kept * bank[index] + (1 - kept) * new, dim=1) for bank, new in zip(self.banks, own)]
        self.labels[index] = y
        for bank, rows in zip(self.banks, keys):
            bank[index] = rows
        return keys

    @torch.no_grad()
    def partition(self, side: int, positive: Tensor, negative: Tensor) -> Tensor:
        """log Z: images times the mean of exp(similarity / temperature) in the first batch, kept from then on."""
        scores = torch.cat([positive[:, None], negative], dim=1)
        estimate = scores.logsumexp((0, 1)) + math.log(self.images / scores.numel())
        self.log_z[side] = torch.where(self.log_z[side].isnan(), estimate, self.log_z[side])
        return self.log_z[side].clone()
