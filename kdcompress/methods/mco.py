"""Multistructure-Based Collaborative Online Distillation. Gao, Lan, Mi, Feng, Xu and Peng, Entropy 21 (4), 357, 2019.

From the paper: networks of different structure are trained at once; their ensemble is the teacher of each; distillation
is discontinuous (the networks also learn apart from each other, which keeps them diverse) and its constraint is
progressively enhanced. No official code is known, and these details are ours: the ensemble is the mean of the logits;
the training is cut into ``cycles``, of each of which the last ``distilled`` share distils; the weight rises linearly
over the whole training; weight and temperature are those of ONE, an author of which took part.
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
    """The student and its peers learn from their ensemble, by turns with learning apart, and ever more strictly."""

    class Options(LogitOptions):
        weight: float = Field(1.0, ge=0, description="at the end of the training")
        temperature: float = Field(3.0, ge=0.01, le=1000)
        warmup: float = Field(1.0, ge=0, le=1, description="share of the training over which the constraint rises")
        cycles: int = Field(
            60, ge=1, le=1_000_000, description="of learning apart and then from each other, in the training"
        )
        distilled: float = Field(0.5, gt=0, le=1, description="share of each cycle that distils; 1: without a break")

    family = "online"
    paper = "doi:10.3390/e21040357"
    needs = Needs(peers="logits", one_label=True)

    def terms(self, batch: Batch, student: Taps, peers: list[Taps], progress: float) -> dict[str, Tensor]:
        o = self.options
        if not distils(progress, o.cycles, o.distilled):
            return {"mco": torch.zeros((), device=student.logits.device)}
        return {"mco": o.weight * collaborative_loss([m.logits for m in (student, *peers)], o.temperature)}
