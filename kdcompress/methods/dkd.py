"""Decoupled Knowledge Distillation. Zhao, Cui, Song, Qiu and Liang, CVPR 2022, arXiv:2203.08679."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import rising, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes


def dkd_loss(student: Tensor, teacher: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD, each times T^2 (section 3): the divergence between target and not target, and that among the
    other classes.

    Logits [N, K], ``y`` int64 [N]; two float32 scalars, averaged over the batch. Both are divergences of logits: the
    other classes' logit is their logsumexp, so no probability underflows. With two classes NCKD is 0 and TCKD is KD.
    """
    (pair, others), (teacher_pair, teacher_others) = (_decoupled(z, y, temperature) for z in (student, teacher))
    tckd, nckd = kd_loss(pair, teacher_pair, 1.0), kd_loss(others, teacher_others, 1.0)
    return temperature**2 * tckd, temperature**2 * nckd


def _decoupled(logits: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logits of (target, not target) [N, 2] and of the classes that are not the target [N, K - 1]."""
    z = logits.float() / temperature
    others = z.gather(1, (y[:, None] + torch.arange(1, z.shape[1], device=z.device)) % z.shape[1])
    return torch.cat([z.gather(1, y[:, None]), others.logsumexp(1, keepdim=True)], dim=1), others


@methods.register("dkd")
class DKD(Method):
    """KD in two parts, with a weight each: how sure the teacher is of the label, and what it says of the other
    classes."""

    class Options(LogitOptions):
        alpha: float = Field(
            1.0,
            ge=0,
            description="Weight of the target part (TCKD): how sure the teacher is of the label. The paper uses 1.",
        )
        beta: float = Field(
            8.0,
            ge=0,
            description="Weight of the part for all other classes (NCKD). The paper uses 2, 6 or 8 on "
            "CIFAR-100, depending on the networks, and 0.5 on ImageNet.",
        )
        temperature: float = softening(4.0, "The paper uses 4 on CIFAR-100 and 1 on ImageNet.")
        warmup: float = rising(1 / 12, "The paper uses 20 of 240 epochs.")

    paper = "arXiv:2203.08679"
    needs = Needs(teacher="logits", one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if student.classes == 2:
            if not self.options.alpha:
                raise UsageError(
                    "With 2 classes, dkd learns nothing while `alpha` is 0.",
                    got="alpha=0; the other part compares the classes that are not the target, and there is one",
                    hint="method.dkd.alpha=1, or method: kd",
                )
            self.note = "dkd: of 2 classes the part on the other ones (beta) is always 0; alpha's part is kd"

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)
        tckd, nckd = dkd_loss(student.logits[:n], teacher.logits[:n], batch.y, o.temperature)
        return {"tckd": o.alpha * tckd, "nckd": o.beta * nckd}
