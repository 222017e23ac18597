"""One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation (OFA-KD). Hao, Guo, Han,
Tang, Hu, Wang and Xu, NeurIPS 2023, arXiv:2310.19444.

Every stage of the student gets an exit to logits, which learns the teacher's logits as the student's own do: there the
architectures need not agree. The true class's target is enhanced, more so the surer the teacher is.

Ours: one kind of exit for all architectures, small convolutions on the stage's map, in place of separable convolutions
for the one and transformer blocks for the other.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import exit_head
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
    """Exits at the student's stages, and the student itself, learn the teacher's enhanced predictions."""

    class Options(MethodOptions):
        weight: float = Field(1.0, ge=0, description="of the student's own logits")
        exits: float = Field(1.0, ge=0, description="weight of each exit")
        eps: float = Field(
            1.0, gt=0, le=100, description="exponent of the target enhancement; 1 (none) to 1.5 in the paper"
        )
        temperature: float = Field(1.0, ge=0.01, le=1000)

    family = "feature"
    paper = "arXiv:2310.19444"
    needs = Needs(student="logits+stages", teacher="logits", one_label=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.heads = nn.ModuleList(exit_head(stage, student.classes) for stage in student.stages)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)

        def loss(logits: Tensor) -> Tensor:
            return ofa_loss(logits[:n], teacher.logits[:n], batch.y, o.eps, o.temperature)

        exits = [loss(head(stage)) for head, stage in zip(self.heads, student.stages)]
        return {"ofa": o.weight * loss(student.logits), "exits": o.exits * sum(exits)}
