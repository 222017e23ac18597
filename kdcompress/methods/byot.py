"""Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation.
Zhang, Song, Gao, Chen, Bao and Ma, ICCV 2019, arXiv:1905.08094.

The paper leaves the weights open. Alpha, the temperature and the weight of the hint are those of the best-known
reimplementation.

Different here: the layers of the exits. A linear map leads from an exit's feature to the width of the deepest one, so
that the exits stay small beside wide networks.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import exit_head
from kdcompress.methods.fields import softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes


def exit_losses(
    exit: Tensor, deepest: Tensor, y: Tensor, feature: Tensor, pooled: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The three losses of an exit (section 3): cross-entropy with the labels, T^2 * KL(deepest || exit), and the
    squared distance of its feature to the deepest one, summed over the features.

    ``exit`` and ``deepest`` logits [N, K], ``y`` int64 [M] the labels of the first M rows, ``feature`` and ``pooled``
    [N, D]. The deepest classifier teaches and gets no gradient. Float32 scalars, averaged over the batch.
    """
    task = F.cross_entropy(exit[: len(y)].float(), y)
    hint = (feature.float() - pooled.detach().float()).square().sum(1).mean()
    return task, kd_loss(exit, deepest.detach(), temperature), hint


@methods.register("byot")
class BYOT(Method):
    """The student's deepest classifier teaches early exits, which sit at all stages before the last one."""

    class Options(LogitOptions):
        task_weight: float = Field(0.9, ge=0, description="Weight of the student's own cross-entropy: 1 - alpha.")
        alpha: float = Field(
            0.1,
            ge=0,
            le=1,
            description="Weight of the loss between each exit and the deepest classifier. The weight of the "
            "exits' cross-entropy is 1 - alpha. The paper gives no number; a common reimplementation uses "
            "0.1.",
        )
        temperature: float = softening(
            3.0, "The paper gives no number; a common reimplementation uses 3.", logits="logits"
        )
        beta: float = Field(
            1.28e-4,
            ge=0,
            description="Weight of the distance between features. The paper gives no number; a common "
            "reimplementation uses 1e-6 on the sum over a batch of 128, which is 1.28e-4 here.",
        )

    family = "self"
    paper = "arXiv:1905.08094"
    needs = Needs(student="logits+stages+pooled", one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: None) -> None:
        if len(student.stages) < 2 or student.pooled is None:
            raise UsageError(
                "byot needs stages before the last one, and a pooled feature.",
                got=f"stages {', '.join(map(str, student.stages)) or 'none'}; pooled feature {student.pooled}",
                hint="name two modules or more in student.taps, of a network that ends in pooling and a linear layer",
            )
        self.exits = nn.ModuleList(exit_head(stage, student.classes) for stage in student.stages[:-1])
        self.adapters = nn.ModuleList(nn.Linear(exit[-1].in_features, student.pooled) for exit in self.exits)  # type: ignore[index]

    def terms(self, batch: Batch, student: Taps, teacher: None, progress: float) -> dict[str, Tensor]:
        o, losses = self.options, []
        assert student.pooled is not None
        for head, adapter, stage in zip(self.exits, self.adapters, student.stages[:-1], strict=True):
            feature = head[:-1](stage)  # type: ignore[index]
            logits = head[-1](feature)  # type: ignore[index]
            losses.append(exit_losses(logits, student.logits, batch.y, adapter(feature), student.pooled, o.temperature))
        task, kd, hint = (sum(values) for values in zip(*losses))
        return {"exits": (1 - o.alpha) * task, "kd": o.alpha * kd, "hint": o.beta * hint}
