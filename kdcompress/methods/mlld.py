"""Multi-level Logit Distillation. Jin, Wang and Lin, CVPR 2023, doi:10.1109/CVPR52729.2023.02325.

This is the paper's loss. The official code differs: it adds a confidence mask (which it applies to a mean, where it is
only a factor) and a second, strongly augmented view of each image. Its correlation terms grow with the batch.

``strong_view`` has that second view. Ours: every term is of both views (two temperatures of the code's strong view, and
its class terms, are the weak one's by mistake), and all are means over the two, so that the losses have one size with
it and without. The code adds the two up, and halves the learning rate.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import STRONG, Batch, Pairing, two_views
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import in_float32
from kdcompress.methods.fields import label_weight, loss_weight
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps


def mlld_loss(student: Tensor, teacher: Tensor, temperatures: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The alignment of instances, of the batch and of classes, of logits [N, K], each averaged over the temperatures
    (section 3); three float32 scalars.

    Instances: KD. Batch: the squared difference of the Gram matrices P P^T [N, N]. Classes: that of P^T P [K, K]. The
    paper divides their sums by N and by K, so that they grow with N and with N^2: here both are means over the
    batch, times what they are at the paper's batch of 64.
    """
    n, classes = student.shape
    levels = torch.zeros(3, device=student.device)
    for t in temperatures:
        p, q = (F.softmax(z.float() / t, dim=1) for z in (student, teacher))
        with in_float32(student):
            batch = 64 * (p @ p.T - q @ q.T).square().mean()
            category = 64**2 / classes * ((p.T @ p - q.T @ q) / n).square().sum()
        levels = levels + torch.stack([kd_loss(student, teacher, t), batch, category])
    instance, batch, category = levels / len(temperatures)
    return instance, batch, category


@methods.register("mlld")
class MLLD(Method):
    """KD at several temperatures. The student also learns how predictions correlate, between images and between
    classes."""

    class Options(LogitOptions):
        task_weight: float = label_weight(0.1, "The reference code uses 0.1.")
        weight: float = loss_weight(
            4.5, "It is averaged over the temperatures; 4.5 is the paper's 0.9 for each of its five."
        )
        temperatures: tuple[Annotated[float, Field(ge=0.01, le=1000)], ...] = Field(
            (2.0, 3.0, 4.0, 5.0, 6.0),
            min_length=1,
            max_length=100,
            description="Temperatures at which teacher and student are compared. The reference code uses 2, "
            "3, 4, 5 and 6.",
        )
        strong_view: bool = Field(
            False,
            description="Learn from a second view of each image too, changed more (`data.augment.second`), as the "
            "reference code does. An iteration sees twice the images.",
        )

    paper = "doi:10.1109/CVPR52729.2023.02325"
    needs = Needs(teacher="logits", whole_batch=True, one_label=True)

    @classmethod
    def pairing(cls, options: Options) -> Pairing:
        return STRONG if options.strong_view else "single"

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, views = self.options, [(student.logits, teacher.logits)]
        if o.strong_view:
            views = list(zip(*(two_views(each.logits, len(batch.y)) for each in (student, teacher))))
        each = [mlld_loss(ours, theirs, o.temperatures) for ours, theirs in views]
        means = (sum(losses) / len(views) for losses in zip(*each))
        return {name: o.weight * loss for name, loss in zip(("instance", "batch", "class"), means)}
