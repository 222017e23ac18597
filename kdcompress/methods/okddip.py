"""Online Knowledge Distillation with Diverse Peers. Chen, Mei, Wang, Feng and Chen, AAAI 2020, arXiv:1912.00350.

There are two levels. Each peer learns from a mixture of the peers' predictions, its own included, with weights from its
own attention. The student, the group's leader, learns from their mean.

Where the reference code departs from the paper, this follows the paper: probabilities are mixed, not logits, and
nothing is added to the target. Different here: each peer has its own projections, as peers may differ in width.
Features and predictions of the peers are constants in the targets. So the divergence trains the projections and the
network that learns, and not those it learns from.
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
from kdcompress.methods.fields import loss_weight, rising, softening
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
    """Peers learn from mixtures of each other's predictions, weighted by attention. The student learns from all
    peers."""

    class Options(LogitOptions):
        weight: float = loss_weight(1.0)
        temperature: float = softening(3.0, logits="all networks' logits")
        warmup: float = rising(80 / 300, "The paper uses 80 of 300 epochs.")
        reduction: int = Field(
            8,
            ge=1,
            le=65_536,
            description="How many times narrower the vectors of the attention are than the narrowest peer's "
            "pooled feature.",
        )

    family = "online"
    paper = "arXiv:1912.00350"
    needs = Needs(peers="logits+pooled", least_peers=2, one_label=True)

    def build(self, student: TapShapes, peers: list[TapShapes]) -> None:
        widths = [peer.pooled for peer in peers if peer.pooled is not None]
        if len(widths) < len(peers):
            raise UsageError(
                "okddip needs the pooled feature of every peer.",
                got="a peer whose logits do not come from a linear layer on a pooled feature",
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
