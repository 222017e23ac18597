"""Born-Again Neural Networks. Furlanello, Lipton, Tschannen, Itti and Anandkumar, ICML 2018, arXiv:1805.04770.

The student has its teacher's architecture. It learns from the teacher's predictions alone, at temperature 1 and without
labels: the paper's BAN. With ``task_weight`` 1 it is BAN+L. More generations are a chain of such trainings
(``generations`` of the recipe).

CWTM and DKPP are the paper's two tests of what the teacher passes on: how sure it is, and its dark knowledge without
the identities of the classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import label_weight, loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def cwtm_loss(student: Tensor, teacher: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
    """Confidence weighted by teacher max (section 3.2): the cross-entropy with the labels, a weighted mean over the
    batch; an image's weight is the teacher's largest probability. Logits [N, K], ``y`` int64 [N]. A float32 scalar."""
    weight = F.softmax(teacher.float() / temperature, dim=1).amax(1)
    return (weight * F.cross_entropy(student.float(), y, reduction="none")).sum() / weight.sum()


def permuted(logits: Tensor) -> Tensor:
    """Dark knowledge with permuted predictions (section 3.2): the logits [N, K] with all but the largest of each row
    in a random order."""
    largest = F.one_hot(logits.argmax(1), logits.shape[1])
    here, there = ((largest + torch.rand_like(logits, dtype=torch.float32)).argsort(1) for _ in range(2))
    return torch.empty_like(logits).scatter(1, here, logits.gather(1, there))


@methods.register("born-again")
class BornAgain(Method):
    """The student has the teacher's architecture and learns from its predictions."""

    class Options(LogitOptions):
        task_weight: float = label_weight(0.0, "The paper's BAN uses 0, its BAN+L uses 1.")
        weight: float = loss_weight(1.0)
        temperature: float = softening(1.0, "The paper uses 1.")
        variant: Literal["kd", "cwtm", "dkpp"] = Field(
            "kd",
            description="What the teacher passes on. kd: its predictions. cwtm: how sure it is of each image. "
            "dkpp: its predictions, with all classes but the first shuffled.",
        )

    family = "self"
    paper = "arXiv:1805.04770"
    needs = Needs(teacher="logits", whole_batch=True, one_label=True, truth=True)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)
        if o.variant == "cwtm":
            loss = cwtm_loss(student.logits[:n], teacher.logits[:n], batch.y, o.temperature)
        else:
            target = permuted(teacher.logits) if o.variant == "dkpp" else teacher.logits
            loss = kd_loss(student.logits, target, o.temperature)
        return {o.variant: o.weight * loss}
