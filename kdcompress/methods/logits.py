"""Do Deep Nets Really Need to be Deep? Ba and Caruana, NIPS 2014, arXiv:1312.6184: logits matched by regression."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import label_weight, loss_weight
from kdcompress.models.taps import Taps


def logits_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared difference of logits [N, K], averaged over classes and batch; a float32 scalar.

    Equation 1 of the paper sums over the classes and halves, which is K/2 times this. The mean does not depend on the
    number of classes and has KD's scale: it is twice KD's limit at high temperature where both sides' logits have
    mean 0.
    """
    return F.mse_loss(student.float(), teacher.float())


@methods.register("logits")
class Logits(Method):
    """The student learns the teacher's logits by regression. By default, as in the paper, it does not use the
    labels."""

    class Options(LogitOptions):
        task_weight: float = label_weight(0.0, "The paper uses 0: it learns from the logits alone.")
        weight: float = loss_weight(1.0)

    paper = "arXiv:1312.6184"
    needs = Needs(teacher="logits")

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        return {"logits": self.options.weight * logits_loss(student.logits, teacher.logits)}
