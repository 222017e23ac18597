"""Knowledge Distillation Based on Transformed Teacher Matching. Zheng and Yang, ICLR 2024, arXiv:2402.11148."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.models.taps import Taps


def ttm_loss(student: Tensor, teacher: Tensor, gamma: float, weighted: bool = False) -> Tensor:
    """KL(teacher's probabilities to the power ``gamma``, normalised || softmax(student)) of logits [N, K], in nats;
    summed over the classes and averaged over the batch, a float32 scalar (section 3).

    ``gamma`` is 1 / T: only the teacher is softened, and there is no T^2. ``weighted`` (WTTM, section 4): each sample
    counts as much as its teacher is smooth, by the power sum U, the sum of p^gamma, 1 to K^(1 - gamma).
    """
    log_q = F.log_softmax(student.float(), dim=1)
    log_power = gamma * F.log_softmax(teacher.float(), dim=1)
    divergence = F.kl_div(log_q, F.log_softmax(log_power, dim=1), reduction="none", log_target=True).sum(1)
    return (log_power.logsumexp(1).exp() * divergence if weighted else divergence).mean()


@methods.register("ttm")
class TTM(Method):
    """KD in which the teacher alone is softened, and the student stays at temperature 1. This adds a Rényi entropy
    term."""

    class Options(LogitOptions):
        weight: float = loss_weight(45.0, "The paper uses 7 to 101, depending on the networks.")
        gamma: float = Field(
            0.1, gt=0, le=1, description="Power to which the teacher's probabilities are raised: 1 / temperature."
        )

    paper = "arXiv:2402.11148"
    needs = Needs(teacher="logits")
    weighted: ClassVar[bool] = False

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        return {"ttm": o.weight * ttm_loss(student.logits, teacher.logits, o.gamma, self.weighted)}


@methods.register("wttm")
class WTTM(TTM):
    """TTM in which an image counts more where the teacher's probabilities are smoother."""

    class Options(TTM.Options):
        weight: float = loss_weight(2.25, "The paper uses 1.4 to 16, depending on the networks.")

    weighted = True
