"""FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence. Sohn et al., NeurIPS 2020,
arXiv:2001.07685. Its consistency, with knowledge distillation on the same images: for target domains, whose images
have no labels (``data.labelled``, ``data.unlabelled: targets``), after Belal et al., WACV 2021, arXiv:2101.07308.

Different from both: the teacher is frozen, where Belal et al. adapt it to each target while it teaches. What adapts
here is the student, by its own sure answers. There is no loss that aligns the domains' features.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import STRONG, Batch, two_views
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def consistency_loss(weak: Tensor, strong: Tensor, least: float) -> Tensor:
    """The cross-entropy of the strong view's answer with the weak view's largest class, in nats, 0 for an image whose
    largest probability on the weak view is less than ``least`` (equation 4).

    Logits [N, K]; averaged over all N, a float32 scalar. No gradient flows into ``weak``.
    """
    sure, taken = weak.detach().float().softmax(1).max(1)
    return (F.cross_entropy(strong.float(), taken, reduction="none") * (sure >= least)).mean()


@methods.register("fixmatch")
class FixMatch(Method):
    """The student learns the teacher's answers to the weak view of each image, and its own sure ones for the strong
    view. For images without labels, of other domains too. An iteration sees twice the images."""

    class Options(MethodOptions):
        weight: float = loss_weight(1.0, "It is that on the teacher's answers (KD).")
        temperature: float = softening(4.0)
        consistency: float = Field(1.0, ge=0, description="Weight of the loss between the two views. The paper uses 1.")
        confidence: float = Field(
            0.95,
            ge=0,
            le=1,
            description="The student's largest probability from which on its answer to a weak view is learnt for the "
            "strong one. The paper uses 0.95.",
        )

    paper = "arXiv:2001.07685"
    needs = Needs(teacher="logits", rows=STRONG, one_label=True)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, labelled = self.options, len(batch.y)
        (weak, strong), (taught, _) = (two_views(each.logits, labelled) for each in (student, teacher))
        return {
            "kd": o.weight * kd_loss(weak, taught, o.temperature),
            "consistency": o.consistency * consistency_loss(weak, strong, o.confidence),
        }
