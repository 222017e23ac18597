"""Knowledge Distillation by On-the-Fly Native Ensemble. Lan, Zhu and Gong, NeurIPS 2018, arXiv:1806.04606.

Different here: the branches are exit heads on the map of the stage before the last, not copies of the last stage, so
any network can have them. The student's own last stage is one branch, the one that ships. No peer or teacher is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import exit_head
from kdcompress.methods.fields import softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes


def ensemble(branches: Tensor, gate: Tensor) -> Tensor:
    """Logits [N, B, K] of B branches added with the weights ``gate`` [N, B]: [N, K], float32 (section 3)."""
    return (gate.float()[..., None] * branches.float()).sum(1)


def branch_loss(branches: Tensor, gate: Tensor, temperature: float) -> Tensor:
    """The sum over the branches of T^2 * KL(ensemble || branch), the ensemble a constant (section 3):
    ``branches`` are logits [N, B, K], ``gate`` is [N, B]. A float32 scalar, averaged over the batch."""
    target = ensemble(branches, gate).detach()
    return torch.stack([kd_loss(branch, target, temperature) for branch in branches.unbind(1)]).sum()


@methods.register("one")
class ONE(Method):
    """The student gets branches. A gate makes an ensemble of them, and each branch learns from the ensemble."""

    class Options(MethodOptions):
        weight: float = Field(1.0, ge=0, description="Weight of the loss between the branches and their ensemble.")
        temperature: float = softening(3.0, logits="logits")
        warmup: float = Field(
            80 / 300,
            ge=0,
            le=1,
            description="Share of the training in which that weight rises from 0. The paper's code uses 80 of "
            "300 epochs.",
        )
        branches: int = Field(3, ge=2, le=100, description="Number of branches, the student's own last stage included.")

        def strength(self, progress: float) -> float:
            return float(self.since <= progress <= self.until)

    family = "online"
    paper = "arXiv:1806.04606"
    needs = Needs(student="stages", one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: None) -> None:
        stage, count = student.stages[-2:][0], self.options.branches
        self.heads = nn.ModuleList(exit_head(stage, student.classes) for _ in range(count - 1))
        self.gate = nn.Sequential(nn.Linear(stage.channels, count), nn.BatchNorm1d(count), nn.ReLU(), nn.Softmax(1))

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        o, x, y = self.options, student.stages[-2:][0], batch.y
        own = [head(x).float() for head in self.heads]
        branches = torch.stack([student.logits.float(), *own], dim=1)
        gate, rise = self.gate(x.mean((2, 3))), MethodOptions.strength(o, progress)
        return {
            "branches": torch.stack([F.cross_entropy(z[: len(y)], y) for z in own]).sum(),
            "ensemble": F.cross_entropy(ensemble(branches, gate)[: len(y)], y),
            "one": rise * o.weight * branch_loss(branches, gate, o.temperature),
        }
