"""Revisiting Knowledge Distillation via Label Smoothing Regularization (Tf-KD). Yuan, Tay, Li, Wang and Feng, CVPR
2020, arXiv:1909.11723: the virtual teacher (Tf-KD_reg)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import label_weight, loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def virtual_teacher(y: Tensor, classes: int, correct: float) -> Tensor:
    """Log-probabilities [N, classes] of a teacher that gives ``correct`` to the label ``y`` int64 [N] and the same to
    all other classes (equation 8)."""
    rest = torch.full((len(y), classes), math.log((1 - correct) / (classes - 1)), device=y.device)
    return rest.scatter(1, y[:, None], math.log(correct))


def tf_kd_loss(student: Tensor, y: Tensor, correct: float, temperature: float) -> Tensor:
    """T^2 * KL of the student's logits [N, K] from the virtual teacher, both softened by T (equation 9), averaged over
    the batch; a float32 scalar.

    T^2 is KD's own, without which the gradient would vanish at T = 20. The official code softens probabilities as if
    they were logits, leaves the student at T = 1, and averages over the classes.
    """
    return kd_loss(student, virtual_teacher(y, student.shape[1], correct), temperature)


@methods.register("tf-kd")
class TfKD(Method):
    """KD without a teacher. A made-up one is always right, and equally unsure of all other classes."""

    class Options(LogitOptions):
        task_weight: float = label_weight(0.9)
        weight: float = loss_weight(0.1)
        temperature: float = softening(20.0, logits="the logits of the made-up teacher and of the student")
        correct: float = Field(
            0.99,
            gt=0,
            lt=1,
            description="Probability that the made-up teacher gives to the label. The paper uses 0.99.",
        )

    family = "self"
    paper = "arXiv:1909.11723"
    needs = Needs(one_label=True, truth=True)

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        o, logits = self.options, student.logits[: len(batch.y)]
        return {"virtual": o.weight * tf_kd_loss(logits, batch.y, o.correct, o.temperature)}
