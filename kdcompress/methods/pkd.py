"""Patient Knowledge Distillation for BERT Model Compression. Sun, Cheng, Gan and Liu, EMNLP 2019, arXiv:1908.09355,
for images.

The student's representation at several depths points where the teacher's does. The paper adds this to cross-entropy and
KD: for that, name ``kd`` as a second method.

Different here: a stage's map, averaged over its places, takes the part of a layer's [CLS] token. The stages are those
that pair. Where the widths differ (in the paper they never do), a linear map without bias leads to the teacher's width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight
from kdcompress.models.taps import Taps, TapShapes


def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two representations [N, D] divided by their l2 norms. Summed over D, so that it
    does not depend on the width, and averaged over the batch; a float32 scalar in 0..4."""
    s, t = (F.normalize(x.float(), dim=1, eps=1e-6) for x in (student, teacher))
    return (s - t).square().sum(1).mean()


@methods.register("pkd")
class PKD(Method):
    """The student's pooled stages learn to point in the direction of the teacher's."""

    class Options(MethodOptions):
        weight: float = loss_weight(
            1.0, "1 here is 768 in the official code, which averages over BERT's 768 dimensions."
        )

    family = "feature"
    paper = "arXiv:1908.09355"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.maps = nn.ModuleList(nn.Identity() if s == t else nn.Linear(s, t, bias=False) for s, t in widths)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        losses = [
            pkd_loss(linear(student.stages[s].mean((2, 3))), teacher.stages[t].mean((2, 3)))
            for linear, (s, t) in zip(self.maps, self.pairs)
        ]
        return {"pkd": self.options.weight * sum(losses) / len(losses)}
