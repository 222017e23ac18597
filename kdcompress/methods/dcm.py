"""Knowledge Transfer via Dense Cross-layer Mutual-distillation. Yao and Sun, ECCV 2020, arXiv:2008.07816.

Different here: the auxiliary classifiers are small exit heads; the paper uses copies of the network's later stages.
With more than one peer, what a classifier learns from the other networks is averaged over them, as in deep mutual
learning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import exit_head
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes


def dense_mutual_loss(networks: Sequence[Sequence[Tensor]], temperature: float = 1.0) -> Tensor:
    """T^2 * KL(theirs || ours) summed over every classifier of every network and every classifier, of the same stage
    or another, of the other networks; divided by the number of others; theirs taken as constants (section 3).

    ``networks`` holds the logits [N, K] of each network's classifiers. Averaged over the batch: a float32 scalar."""
    losses = [
        kd_loss(ours, theirs.detach(), temperature)
        for i, network in enumerate(networks)
        for j, other in enumerate(networks)
        if i != j
        for ours in network
        for theirs in other
    ]
    return torch.stack(losses).sum() / (len(networks) - 1)


@methods.register("dcm")
class DCM(Method):
    """The student and its peers have auxiliary classifiers at their stages. All classifiers learn from each other."""

    class Options(MethodOptions):
        weight: float = loss_weight(1.0)
        temperature: float = softening(1.0, logits="logits")
        exits: int = Field(
            2,
            ge=1,
            le=100,
            description="Auxiliary classifiers of each network. They sit at the stages just before its last.",
        )
        exit_weight: float = Field(
            1.0, ge=0, description="Weight of the auxiliary classifiers' cross-entropy with the labels."
        )

    family = "online"
    paper = "arXiv:2008.07816"
    needs = Needs(student="stages", peers="stages", one_label=True, truth=True)

    def build(self, student: TapShapes, peers: list[TapShapes]) -> None:
        members = (student, *peers)
        if any(len(shapes.stages) < 2 for shapes in members):
            raise UsageError("dcm needs two stages or more of the student and of each peer.", hint="name their stages")
        self.heads = nn.ModuleList(
            exit_head(s, shapes.classes) for shapes in members for s in self.hidden(shapes.stages)
        )

    def hidden(self, stages: Sequence) -> Sequence:
        """The stages that get a classifier."""
        return stages[:-1][-self.options.exits :]

    def terms(self, batch: Batch, student: Taps, peers: list[Taps], progress: float) -> dict[str, Tensor]:
        o, members = self.options, (student, *peers)
        heads = iter(self.heads)
        early = [[next(heads)(stage) for stage in self.hidden(taps.stages)] for taps in members]
        errors = [F.cross_entropy(z[: len(batch.y)].float(), batch.y) for logits in early for z in logits]
        networks = [[*logits, taps.logits] for logits, taps in zip(early, members)]
        return {
            "exits": o.exit_weight * torch.stack(errors).sum(),
            "dcm": o.weight * dense_mutual_loss(networks, o.temperature),
        }
