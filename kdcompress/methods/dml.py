"""Deep Mutual Learning. Zhang, Xiang, Hospedales and Lu, CVPR 2018, arXiv:1706.00384.

All networks are updated in one step from one forward each, rather than one after the other with new forwards in
between (algorithm 1): what a network learns from is at most one step older.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def mutual_loss(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """The sum over the networks of what each learns from the others: T^2 * KL(other || it), averaged over the others
    and over the batch, the others' probabilities taken as constants (section 2.3).

    ``logits`` are those of two networks or more, [N, K] each, of any float type. Returns a float32 scalar."""
    pairs = [(i, j) for i in range(len(logits)) for j in range(len(logits)) if i != j]
    losses = [kd_loss(logits[i], logits[j].detach(), temperature) for i, j in pairs]
    return torch.stack(losses).sum() / (len(logits) - 1)


@methods.register("dml")
class DML(Method):
    """The student and its peers learn from each other's class probabilities."""

    class Options(LogitOptions):
        weight: float = loss_weight(1.0)
        temperature: float = softening(1.0, "The paper uses 1.", logits="each network's logits")

    family = "online"
    paper = "arXiv:1706.00384"
    needs = Needs(peers="logits")

    def terms(self, batch: Batch, student: Taps, peers: list[Taps], progress: float) -> dict[str, Tensor]:
        logits = [member.logits for member in (student, *peers)]
        return {"dml": self.options.weight * mutual_loss(logits, self.options.temperature)}
