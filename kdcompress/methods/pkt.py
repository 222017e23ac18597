"""Learning Deep Representations with Probabilistic Knowledge Transfer. Passalis and Tefas, ECCV 2018,
arXiv:1803.10837.

As in the authors' code, an image is also its own neighbour (the paper leaves it out). So a batch that is given several
times has the loss of the batch.
"""

from __future__ import annotations

from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import cosines, pooled, pooled_widths
from kdcompress.models.taps import Taps, TapShapes


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the student's conditional probabilities of neighbours from the teacher's, p(j | i) proportional
    to (cos(x_i, x_j) + 1) / 2 (section 3), of features [N, D] and [N, E].

    Summed over j, averaged over i and divided by 64: at N = 64 this is the mean over the N^2 pairs that the usual
    weight of 30000 is for, and it does not depend on N. Float32, in log space."""

    def log_probabilities(x: Tensor) -> Tensor:
        kernel = (cosines(x, x) + 1) / 2
        log_kernel = kernel.clamp(min=1e-7).log()
        return log_kernel - log_kernel.logsumexp(1, keepdim=True)

    log_p, log_q = log_probabilities(teacher), log_probabilities(student)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean() / 64


@methods.register("pkt")
class PKT(Method):
    """The student learns which images are neighbours in the teacher's pooled features."""

    class Options(MethodOptions):
        weight: float = loss_weight(
            30000.0, "It is for a batch of 64 images; other sizes are scaled to that. The reference code uses 30000."
        )

    family = "relation"
    paper = "arXiv:1803.10837"
    needs = Needs(student="logits+pooled", teacher="pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        pooled_widths(student, teacher)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        return {"pkt": self.options.weight * pkt_loss(*pooled(student, teacher))}
