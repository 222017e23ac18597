"""One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation (OFA-KD). Hao, Guo, Han,
Tang, Hu, Wang and Xu, NeurIPS 2023, arXiv:2310.19444.

Every stage of the student gets an exit to logits. The exits learn the teacher's logits as the student's own output
does, so the architectures need not agree. The target of the true class is enhanced, more where the teacher is surer.

Different here: all architectures have one kind of exit, small convolutions on the stage's map. The paper uses separable
convolutions for one kind of network and transformer blocks for the other.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import exit_head
from kdcompress.methods.fields import softening
from kdcompress.models.taps import Taps, TapShapes


def ofa_loss(student: Tensor, teacher: Tensor, y: Tensor, eps: float, temperature: float) -> Tensor:
    """Cross-entropy of the student with the enhanced target (p_t + 1_y)^eps - 1_y, which with eps = 1 is the teacher's
    prediction p_t. Logits [N, K] and classes int64 [N]; summed over the classes, averaged over the batch;
    in float32 and log space; a scalar."""
    p = F.softmax(teacher.float() / temperature, dim=1)
    true = F.one_hot(y, p.shape[1])
    target = (p + true) ** eps - true
    return -(target * F.log_softmax(student.float() / temperature, dim=1)).sum(1).mean()


@methods.register("ofa")
class OFA(Method):
    """Exits at the student's stages, and its own output, learn the teacher's predictions, with the label
    strengthened."""

    class Options(MethodOptions):
        weight: float = Field(1.0, ge=0, description="Weight of the loss at the student's own output.")
        exits: float = Field(1.0, ge=0, description="Weight of the loss at each exit.")
        eps: float = Field(
            1.0,
            gt=0,
            le=100,
            description="Strengthens the label in the teacher's prediction. 1: not at all. The paper uses 1 to 1.5.",
        )
        temperature: float = softening(1.0, "The reference code uses 1.")

    family = "feature"
    paper = "arXiv:2310.19444"
    needs = Needs(student="logits+stages", teacher="logits", one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.heads = nn.ModuleList(exit_head(stage, student.classes) for stage in student.stages)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)

        def loss(logits: Tensor) -> Tensor:
            return ofa_loss(logits[:n], teacher.logits[:n], batch.y, o.eps, o.temperature)

        exits = [loss(head(stage)) for head, stage in zip(self.heads, student.stages)]
        return {"ofa": o.weight * loss(student.logits), "exits": o.exits * sum(exits)}
