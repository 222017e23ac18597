"""Consistency-Regularisation-based Logit Distillation (CRLD). Zhang, Liu, Cai and Ma, ACM Multimedia 2024,
arXiv:2412.16493.

Two views of each image, a weak and a strong one. The teacher's answer to each view teaches the student both views, but
only where the teacher is sure enough of its own answer to it.

Ours: an answer counts by its own confidence. A public copy of the authors' code takes the confidence on the weak view
for both terms within a view, and that on the strong one for both terms across. Its RandAugment draws from other ranges,
and cuts a square out. All is in log space.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import STRONG, Batch, two_views
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import label_weight, softening
from kdcompress.models.taps import Taps

Views = tuple[Tensor, Tensor]  # logits [N, K] of the weak view and of the strong one


def sure_kd_loss(student: Tensor, teacher: Tensor, temperature: float, least: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), in nats, 0 for an image whose largest probability by the
    teacher (at T = 1) is less than ``least``.

    Logits [N, K]; averaged over all of the batch, a float32 scalar.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    sure = teacher.float().softmax(1).amax(1) >= least
    return temperature**2 * (divergence * sure).mean()


def crld_loss(student: Views, teacher: Views, temperature: float, least: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The losses within a view (weak to weak and strong to strong) and across (weak to strong and strong to weak), each
    the sum of two. ``least``: the confidence to have on the weak view, and on the strong one. Float32 scalars."""
    weak, strong = (
        [sure_kd_loss(ours, theirs, temperature, sure) for ours in student] for theirs, sure in zip(teacher, least)
    )
    return weak[0] + strong[1], weak[1] + strong[0]


@methods.register("crld")
class CRLD(Method):
    """The student learns the teacher's answers to two views of each image, each of them from both. An iteration sees
    twice the images."""

    class Options(LogitOptions):
        task_weight: float = label_weight(
            2.0,
            "It is the mean over both views, where the reference code adds them up: 2 is its 1 on CIFAR-100, 4 its 2 "
            "on ImageNet.",
        )
        within: float = Field(2.0, ge=0, description="Weight of the losses within a view. The reference code uses 2.")
        across: float = Field(
            0.5, ge=0, description="Weight of the losses across the views. The reference code uses 0.5."
        )
        temperature: float = softening(4.0, "The reference code uses 4 on CIFAR-100 and 1 on ImageNet.")
        weak_confidence: float = Field(
            0.9,
            ge=0,
            le=1,
            description="The teacher's largest probability from which on its answer to a weak view is learnt. The "
            "reference code uses 0.9.",
        )
        strong_confidence: float = Field(
            0.2, ge=0, le=1, description="The same for a strong view. The reference code uses 0.2."
        )

    paper = "arXiv:2412.16493"
    needs = Needs(teacher="logits", rows=STRONG, one_label=True)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, labelled = self.options, len(batch.y)
        ours, theirs = two_views(student.logits, labelled), two_views(teacher.logits, labelled)
        within, across = crld_loss(ours, theirs, o.temperature, (o.weak_confidence, o.strong_confidence))
        return {"within": o.within * within, "across": o.across * across}
