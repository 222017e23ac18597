"""Multistructure-Based Collaborative Online Distillation. Gao, Lan, Mi, Feng, Xu and Peng, Entropy 21 (4), 357, 2019.

From the paper: networks of different structure are trained at once, and their ensemble is the teacher of each.
Distillation pauses now and then: the networks also learn apart from each other, which keeps them diverse. Its weight
rises during the training.

No official code is known. Chosen here: the ensemble is the mean of the logits. The training is cut into ``cycles``, and
the last ``distilled`` share of each cycle distils. The weight rises linearly over the whole training. Weight and
temperature are those of ONE, which has an author in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import loss_weight, rising, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def collaborative_loss(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """The sum over the networks of T^2 * KL(ensemble || network), the ensemble the mean of the logits [N, K] of all, a
    constant; of any float type. Averaged over the batch: a float32 scalar."""
    target = torch.stack([z.detach().float() for z in logits]).mean(0)
    return torch.stack([kd_loss(z, target, temperature) for z in logits]).sum()


def distils(progress: float, cycles: int, share: float) -> bool:
    """Whether this moment of the training is in the last ``share`` of its cycle; a cycle's last moment is in it."""
    return math.ceil(progress * cycles) - progress * cycles < share


@methods.register("mco")
class MCO(Method):
    """The student and its peers learn from their ensemble, in turns with learning apart, and ever more strictly."""

    class Options(LogitOptions):
        weight: float = loss_weight(1.0, "It has this size at the end of the training.")
        temperature: float = softening(3.0, logits="all networks' logits")
        warmup: float = rising(1.0)
        cycles: int = Field(
            60,
            ge=1,
            le=1_000_000,
            description="Number of cycles in the training. In each one the networks first learn apart, then "
            "from each other.",
        )
        distilled: float = Field(
            0.5,
            gt=0,
            le=1,
            description="Share of each cycle in which the networks learn from each other. 1: all the time.",
        )

    family = "online"
    paper = "doi:10.3390/e21040357"
    needs = Needs(peers="logits", one_label=True)

    def terms(self, batch: Batch, student: Taps, peers: list[Taps], progress: float) -> dict[str, Tensor]:
        o = self.options
        if not distils(progress, o.cycles, o.distilled):
            return {"mco": torch.zeros((), device=student.logits.device)}
        return {"mco": o.weight * collaborative_loss([m.logits for m in (student, *peers)], o.temperature)}
