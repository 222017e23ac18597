"""Understanding the Role of the Projector in Knowledge Distillation (Simple Recipe Distillation, SRD). Miles and
Mikolajczyk, AAAI 2024, arXiv:2303.11098.

One linear projector, batch norm on both sides, and the logarithm of the distance: its gradient goes to the images and
channels that are furthest from the teacher's, in shares of the whole.

Different here: the logarithm is of the mean over the batch where the reference code's is of the sum. That is a constant
less, and the same gradient. The batch norm has no state: nothing but this loss reads what it gives.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.methods.pearson import standardized_channels
from kdcompress.methods.relations import pooled, pooled_widths
from kdcompress.models.taps import Taps, TapShapes

LEAST = 1e-12  # below it a distance is 0, and has no gradient


def srd_loss(student: Tensor, teacher: Tensor, exponent: float) -> Tensor:
    """log(sum over the channels of |s - t|^exponent, averaged over the batch), where s and t are features [N, D] with
    mean 0 and standard deviation 1 of each channel over the batch.

    A float32 scalar that may be negative, the same for a batch given twice; it is no mean over images. Where both sides
    agree it is log(1e-12).
    """
    s, t = (standardized_channels(x.float()[..., None, None])[..., 0, 0] for x in (student, teacher))
    return (s - t).abs().pow(exponent).sum(1).mean().clamp(min=LEAST).log()


@methods.register("srd")
class SRD(Method):
    """The student's pooled feature, linearly projected, learns the teacher's: most where it is furthest away."""

    class Options(MethodOptions):
        weight: float = loss_weight(2.0, "Of the features. The reference code uses 2.")
        logits: float = loss_weight(1.0, "Of the logits. The reference code uses 1.")
        exponent: float = Field(
            4.0, ge=1, le=16, description="Power to which differences are raised. The reference code uses 4."
        )
        temperature: float = softening(1.0, "The reference code uses 1.")

    family = "feature"
    paper = "arXiv:2303.11098"
    needs = Needs(student="logits+pooled", teacher="logits+pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.project = nn.Linear(*pooled_widths(student, teacher), bias=False)  # the batch norm takes a bias away

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, pooled(student, teacher)
        return {
            "srd": o.weight * srd_loss(self.project(s), t, o.exponent),
            "srd-logits": o.logits * kd_loss(student.logits, teacher.logits, o.temperature),
        }
