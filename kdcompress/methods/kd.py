"""Distilling the Knowledge in a Neural Network. Hinton, Vinyals and Dean 2015, arXiv:1503.02531."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import label_weight, loss_weight, softening
from kdcompress.models.taps import Taps


def kd_loss(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), in nats; section 2 of the paper.

    ``student`` and ``teacher`` are logits [N, K] of any float type. Summed over the classes and
    averaged over the batch (PyTorch's reduction "mean" would divide by K as well: a common mistake).
    Computed in float32 and in log space, so it is finite at any logit gap. A temperature that is a float32 scalar
    tensor gets a gradient, through T^2 as well. Returns a scalar.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


@methods.register("kd")
class KD(Method):
    """The student learns from the teacher's softened class probabilities."""

    class Options(LogitOptions):
        task_weight: float = label_weight(0.1, "The reference code uses 0.1 on CIFAR-100 and 0.5 on ImageNet.")
        weight: float = loss_weight(0.9, "The reference code uses 0.9 on CIFAR-100 and 0.5 on ImageNet.")
        temperature: float = softening(4.0, "The reference code uses 4 on CIFAR-100 and 1 on ImageNet.")

    paper = "arXiv:1503.02531"
    needs = Needs(teacher="logits")

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        return {"kd": o.weight * kd_loss(student.logits, teacher.logits, o.temperature)}
