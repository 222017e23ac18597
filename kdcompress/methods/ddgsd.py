"""Data-Distortion Guided Self-Distillation for Deep Neural Networks. Xu and Liu, AAAI 2019,
doi:10.1609/aaai.v33i01.33015565.

No official code is known. Chosen here: each view's prediction is a fixed target for the other view (as in mutual
learning); the temperature; the weights. The weight of the MMD is the usual one in reimplementations. They first average
the features to one number; here the MMD is of feature vectors.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes


def symmetric_kl(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """T^2 * (KL(b || a) + KL(a || b)) of two views' logits [N, K], the first of each pair without gradient. A float32
    scalar, averaged over the batch."""
    return kd_loss(a, b.detach(), temperature) + kd_loss(b, a.detach(), temperature)


def mmd_loss(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy with a linear kernel of two views' features [N, D]: the squared distance of
    their means over the batch. A float32 scalar."""
    return (a.float().mean(0) - b.float().mean(0)).square().sum()


@methods.register("ddgsd")
class DDGSD(Method):
    """The student learns to give two distorted views of an image the same prediction and the same mean features."""

    class Options(LogitOptions):
        weight: float = Field(
            1.0,
            ge=0,
            description="Weight of the KL divergence between the predictions of the two views, in both directions.",
        )
        temperature: float = softening(3.0, logits="logits")
        mmd_weight: float = Field(
            5e-4, ge=0, description="Weight of the distance between the mean features of the two views (MMD)."
        )

    family = "self"
    paper = "doi:10.1609/aaai.v33i01.33015565"
    needs = Needs(student="logits+pooled", rows="views", whole_batch=True, one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: None) -> None:
        if student.pooled is None:
            raise UsageError(
                "ddgsd compares pooled features, and the student has none.",
                hint="use a student that ends in a linear layer, or cs-kd, which needs the logits alone",
            )

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        n, o = len(batch.y) // 2, self.options
        logits, pooled = student.logits, student.pooled
        assert pooled is not None
        return {
            "kl": o.weight * symmetric_kl(logits[:n], logits[n : 2 * n], o.temperature),
            "mmd": o.mmd_weight * mmd_loss(pooled[:n], pooled[n : 2 * n]),
        }
