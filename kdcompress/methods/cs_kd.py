"""Regularizing Class-wise Predictions via Self-knowledge Distillation (CS-KD). Yun, Park, Lee and Shin, CVPR 2020,
arXiv:2003.13964.

The authors' code runs the images that teach in a forward of their own; here both go through one, so batch norms see
them together.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def class_wise_loss(logits: Tensor, same_class: Tensor, temperature: float) -> Tensor:
    """Section 2: T^2 * KL(softmax(same_class / T) || softmax(logits / T)). Both logits [N, K]; row i of both is of
    one class. No gradient reaches ``same_class``. A float32 scalar, averaged over the batch."""
    return kd_loss(logits, same_class.detach(), temperature)


@methods.register("cs-kd")
class CSKD(Method):
    """The student learns from its own prediction for another image of the same class."""

    class Options(LogitOptions):
        weight: float = loss_weight(1.0, "The paper calls it lambda; the reference code uses 1.")
        temperature: float = softening(4.0, "The reference code uses 4.", logits="logits")

    family = "self"
    paper = "arXiv:2003.13964"
    needs = Needs(rows="class pairs", one_label=True, truth=True)

    def prepare(self, batch: Batch, progress: float) -> Batch:
        return replace(batch, y=batch.y[: len(batch.y) // 2])  # the second half teaches and has no task loss

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        n, o = len(batch.y), self.options
        return {"cs-kd": o.weight * class_wise_loss(student.logits[:n], student.logits[n : 2 * n], o.temperature)}
