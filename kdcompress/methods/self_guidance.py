"""Self-Guidance: Improve Deep Neural Network Generalization via Knowledge Distillation. Zheng and Peng, WACV 2022,
doi:10.1109/WACV51458.2022.00351.

The paper's idea: there are two forwards, and the full network's prediction teaches a sub-network that skips random
parts of it.

No code is known, and this follows the abstract. Chosen here: the parts are whole channels at the end of each stage, and
the rest is scaled up; the share of them; the temperature; the weight. Both forwards are one, of a batch that is given
twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.distributed import own_rows
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Tapped, Taps


@dataclass
class Gate:
    """Which rows of the forward that runs now go through the full network: the first ``rows``; 0: all of them."""

    rows: int = 0


class Skip:
    """A forward hook on a stage: of the rows past the gate's, each loses every channel with probability ``share``."""

    def __init__(self, gate: Gate, channels: int, share: float):
        self.gate, self.channels, self.share = gate, channels, share

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not (self.gate.rows and module.training):
            return None
        first, *others = output if isinstance(output, tuple) else (output,)
        shape = [1] * (first.ndim - 1)
        shape[0 if first.ndim == 4 and first.shape[1] == self.channels else -1] = self.channels
        drawn = own_rows(lambda n: torch.rand(n, *shape, device=first.device), len(first) - self.gate.rows)
        kept = (drawn >= self.share) / (1 - self.share)
        skipped = torch.cat([first[: self.gate.rows], first[self.gate.rows :] * kept.to(first.dtype)])
        return (skipped, *others) if isinstance(output, tuple) else skipped


def guidance_loss(sub: Tensor, full: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(full network || sub-network) of logits [N, K]; the full network gets no gradient. A float32 scalar,
    averaged over the batch."""
    return kd_loss(sub, full.detach(), temperature)


@methods.register("self-guidance")
class SelfGuidance(Method):
    """Random sub-networks of the student learn from the whole student."""

    class Options(LogitOptions):
        weight: float = loss_weight(1.0)
        temperature: float = softening(3.0, logits="logits")
        share: float = Field(
            0.2, gt=0, lt=1, description="Share of the channels at the end of each stage that a sub-network skips."
        )

    family = "self"
    paper = "doi:10.1109/WACV51458.2022.00351"
    needs = Needs(student="logits+stages", one_label=True)
    deploy = "fold"

    @classmethod
    def attach(cls, options: Any, student: Tapped, teacher: Tapped | None) -> Gate:
        """Returns the gate that the student's hooks look at."""
        gate = Gate()
        for stage in student.shapes.stages:
            student.model.get_submodule(stage.path).register_forward_hook(Skip(gate, stage.channels, options.share))
        return gate

    @classmethod
    def fold(cls, net: nn.Module) -> None:
        for module in net.modules():
            for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, Skip)]:
                del module._forward_hooks[key]

    def prepare(self, batch: Batch, progress: float) -> Batch:
        self.attached.rows = len(batch)
        index, view = (t if t is None else t.repeat(2) for t in (batch.index, batch.view))
        return replace(batch, x=torch.cat([batch.x, batch.x]), index=index, view=view)

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        n, o = self.attached.rows, self.options
        self.attached.rows = 0
        return {"guidance": o.weight * guidance_loss(student.logits[n : 2 * n], student.logits[:n], o.temperature)}
