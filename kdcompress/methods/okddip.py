"""Online Knowledge Distillation with Diverse Peers. Chen, Mei, Wang, Feng and Chen, AAAI 2020, arXiv:1912.00350.

Two levels: each peer learns from a mixture of the peers' predictions (its own is one of them) with weights
from its own attention; the student, the group's leader, from their mean. Where the reference code departs from the
paper, this follows the paper: probabilities are mixed, not logits, and nothing is added to the target. Ours: each peer
has projections of its own, as peers may differ in width; their features and predictions are constants in the targets,
so that the divergence trains the projections and the network that learns, not those learnt from.
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
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes


def group_loss(peers: Tensor, energy: Tensor, temperature: float) -> Tensor:
    """The sum over M peers a of T^2 * KL(t_a || q_a), where t_a = sum_b softmax_b(energy[a, b]) q_b and q = softmax of
    the logits over T, q_b a constant in t_a (section 3). ``peers`` are logits [N, M, K], ``energy`` is
    [N, M, M], of any float type. Computed in log space and averaged over the batch: a float32 scalar."""
    log_q = F.log_softmax(peers.detach().float() / temperature, dim=2)
    log_t = torch.logsumexp(F.log_softmax(energy.float(), dim=2)[..., None] + log_q[:, None], dim=2)
    return kd_loss(peers.flatten(0, 1), temperature * log_t.flatten(0, 1), temperature) * peers.shape[1]


def leader_loss(leader: Tensor, peers: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(mean of the peers' softened probabilities || leader's) (section 3): ``leader`` [N, K], ``peers``
    [N, M, K], logits of any float type, the peers' constants. A float32 scalar, averaged over the batch."""
    log_q = F.log_softmax(peers.detach().float() / temperature, dim=2)
    log_t = torch.logsumexp(log_q, dim=1) - math.log(peers.shape[1])
    return kd_loss(leader, temperature * log_t, temperature)


@methods.register("okddip")
class OKDDip(Method):
    """Peers learn from mixtures of each other's predictions, weighted by attention, and the student from all peers."""

    class Options(LogitOptions):
        weight: float = Field(1.0, ge=0)
        temperature: float = Field(3.0, ge=0.01, le=1000)
        warmup: float = Field(80 / 300, ge=0, le=1, description="share of the training; the paper's 80 of 300 epochs")
        reduction: int = Field(
            8, ge=1, le=65_536, description="the narrowest peer's feature over the width of the projections"
        )

    family = "online"
    paper = "arXiv:1912.00350"
    needs = Needs(peers="logits+pooled", least_peers=2, one_label=True)

    def build(self, student: TapShapes, peers: list[TapShapes]) -> None:
        widths = [peer.pooled for peer in peers if peer.pooled is not None]
        if len(widths) < len(peers):
            raise UsageError(
                "okddip needs the pooled feature of every peer.",
                got="a peer whose logits are not made by a linear layer of one",
                hint="take another peer, or method: dml",
            )
        width = max(1, min(widths) // self.options.reduction)
        self.queries = nn.ModuleList(nn.Linear(w, width, bias=False) for w in widths)
        self.keys = nn.ModuleList(nn.Linear(w, width, bias=False) for w in widths)

    def terms(self, batch: Batch, student: Taps, peers: list[Taps], progress: float) -> dict[str, Tensor]:
        o = self.options
        features = [peer.pooled.detach() for peer in peers if peer.pooled is not None]
        queries = torch.stack([query(x) for query, x in zip(self.queries, features)], dim=1)
        keys = torch.stack([key(x) for key, x in zip(self.keys, features)], dim=1)
        energy = (queries.float()[:, :, None] * keys.float()[:, None]).sum(3)
        logits = torch.stack([peer.logits for peer in peers], dim=1)
        return {
            "group": o.weight * group_loss(logits, energy, o.temperature),
            "leader": o.weight * leader_loss(student.logits, logits, o.temperature),
        }
