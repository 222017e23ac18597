"""Knowledge Distillation with Refined Logits (RLD). Sun, Chen, Lyu, Chen, Chen and Wang, ICCV 2025, arXiv:2408.07703.

Where the teacher is wrong, its mistake is not taught: of its logits those count that are below the label's, and how
sure it is of its first choice stands for how sure to be of the label.

Ours: all in float32 and log space, so that no probability underflows and no logit overflows in float16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import rising, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes

LEFT_OUT = -1e9  # a logit of no probability, and finite, so that differences of two are


def confidence_loss(student: Tensor, teacher: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Sample confidence distillation: T^2 * KL(of the teacher's first choice and the rest || of the label and the
    rest of the student's), in nats.

    Logits [N, K] and classes int64 [N]; averaged over the batch, a float32 scalar.
    """
    ours = _chosen_and_rest(student.float() / temperature, y)
    theirs = _chosen_and_rest(teacher.float() / temperature, teacher.argmax(1))
    return temperature**2 * kd_loss(ours, theirs, 1.0)


def _chosen_and_rest(logits: Tensor, chosen: Tensor) -> Tensor:
    """Logits [N, 2] of the chosen class, and of all others together."""
    rest = logits.masked_fill(F.one_hot(chosen, logits.shape[1]).bool(), -torch.inf).logsumexp(1)
    return torch.stack([logits.gather(1, chosen[:, None])[:, 0], rest], 1)


def correlation_loss(student: Tensor, teacher: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Masked correlation distillation: T^2 * KL(teacher || student) among the classes whose logit is below the
    label's, both the teacher's, in nats. 0 for an image that has at most one such class.

    Logits [N, K] and classes int64 [N]; averaged over the batch, a float32 scalar.
    """
    above = teacher >= teacher.gather(1, y[:, None])
    s, t = (z.float().masked_fill(above, LEFT_OUT) for z in (student, teacher))
    return kd_loss(s, t, temperature)


@methods.register("rld")
class RLD(Method):
    """The student learns how sure the teacher is, but of the label, and how it ranks the classes below the label."""

    class Options(LogitOptions):
        alpha: float = Field(
            1.0,
            ge=0,
            description="Weight of the confidence part (SCD): how sure the teacher is of its first choice. The "
            "reference code uses 1.",
        )
        beta: float = Field(
            8.0,
            ge=0,
            description="Weight of the correlation part (MCD): the classes below the label. The reference code uses "
            "8 on CIFAR-100 and 0.5 on ImageNet.",
        )
        temperature: float = softening(
            4.0, "Of the correlation part. The reference code: 4 on CIFAR-100, 1 on ImageNet."
        )
        confidence_temperature: float = softening(1.0, "Of the confidence part. The reference code uses 1.")
        warmup: float = rising(1 / 12, "The reference code uses 20 of 240 epochs.")

    paper = "arXiv:2408.07703"
    needs = Needs(teacher="logits", one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if student.classes == 2:
            if not self.options.alpha:
                raise UsageError(
                    "With 2 classes, rld learns nothing while `alpha` is 0.",
                    got="alpha=0; the other part compares the classes below the label, and there is at most one",
                    hint="method.rld.alpha=1, or method: kd",
                )
            self.note = "rld: of 2 classes the part on those below the label (beta) is always 0"

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)
        s, t = student.logits[:n], teacher.logits[:n]
        return {
            "scd": o.alpha * confidence_loss(s, t, batch.y, o.confidence_temperature),
            "mcd": o.beta * correlation_loss(s, t, batch.y, o.temperature),
        }
