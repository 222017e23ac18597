"""Channel-wise Knowledge Distillation for Dense Prediction. Shu, Liu, Gao, Yan and Shen, ICCV 2021, arXiv:2011.13256.

Public code compares the maps of a segmenter's or a detector's neck; here it is every paired stage. Ours: pairs of maps
with one place have nothing to compare, and are left out.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import adapter, same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Stage, Taps, TapShapes


def cwd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) between where a channel is active: its softmax over the places (the
    paper's channel-wise distillation).

    ``student`` and ``teacher`` are maps [N, C, H, W] of any float type, compared at the smaller of their sizes. Summed
    over the places, in nats, and averaged over channels and batch, as in the paper: a float32 scalar whose weight
    depends on neither width nor resolution.
    """
    maps = same_size(student.float(), teacher.float())
    s, t = (F.log_softmax(x.flatten(2) / temperature, dim=2) for x in maps)
    return temperature**2 * F.kl_div(s, t, reduction="none", log_target=True).sum(2).mean()


def places(stage: Stage) -> int:
    return stage.height * stage.width


@methods.register("cwd")
class CWD(Method):
    """Each channel of the student's stages learns where the teacher's is active, as a distribution over the places."""

    class Options(MethodOptions):
        weight: float = stages_weight(10.0, "The public code uses 10 for a detector.")
        temperature: float = Field(
            1.0,
            ge=0.01,
            le=1000,
            description="Temperature: the maps are divided by it before the softmax over their places. The "
            "paper uses 1 to 4.",
        )

    family = "feature"
    paper = "arXiv:2011.13256"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        stages = [(student.stages[s], teacher.stages[t]) for s, t in self.pairs]
        compared = [min(places(a), places(b)) > 1 for a, b in stages]
        if not any(compared):
            got = ", ".join(f"{a} and {b}" for a, b in stages)
            hint = "larger images, or a method on pooled features"
            raise UsageError("cwd learns nothing from maps of one place.", got=got, hint=hint)
        self.compared = [pair for pair, used in zip(self.pairs, compared) if used]
        widths = [(a.channels, b.channels) for (a, b), used in zip(stages, compared) if used]
        self.adapters = nn.ModuleList(adapter(a, b) for a, b in widths)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        losses = [
            cwd_loss(adapt(student.stages[s]), teacher.stages[t], o.temperature)
            for adapt, (s, t) in zip(self.adapters, self.compared)
        ]
        return {"cwd": o.weight * sum(losses)}
