"""A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning. Yim, Joo, Bae and
Kim, CVPR 2017 (no arXiv version).

Different here: regressors are used where student and teacher differ in channels (in the paper they never do). Average
pooling is used where two ends differ in size (the paper uses max pooling). The paper ends this loss before the training
with labels begins; here ``until`` ends it early.
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import in_float32, regressor, same_size
from kdcompress.models.taps import Taps, TapShapes


def flow(start: Tensor, end: Tensor) -> Tensor:
    """The FSP matrix of two maps [N, C, H, W] and [N, C', H', W']: the inner products of
    their channels, averaged over the positions of the smaller size. Float32 [N, C, C']."""
    start, end = same_size(start.float(), end.float())
    with in_float32(start):
        return start.flatten(2) @ end.flatten(2).mT / (start.shape[2] * start.shape[3])


def fsp_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared difference of the FSP matrices of two (start, end) pairs of maps with the same channels. Averaged
    over the matrix (the paper sums) and the batch: its weight depends on neither width nor resolution."""
    return (flow(*student) - flow(*teacher)).square().mean()


@methods.register("fsp")
class FSP(Method):
    """The student learns how the channels of each of the teacher's stages go with those of the next stage."""

    class Options(MethodOptions):
        weight: float = Field(
            50.0, ge=0, description="Weight of the loss, summed over the pairs of neighbouring stages."
        )

    family = "feature"
    paper = "doi:10.1109/CVPR.2017.754"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if len(self.pairs) < 2:
            hint = "name two stages or more in the recipe: student.taps, teacher.taps"
            raise UsageError("fsp needs two pairs of stages: it compares the flow between them.", got=1, hint=hint)
        widths = [(student.stages[s].channels, teacher.stages[t].channels) for s, t in self.pairs]
        self.connectors = nn.ModuleList(nn.Identity() if a == b else regressor(a, b) for a, b in widths)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        ours = [connect(student.stages[s]) for connect, (s, _) in zip(self.connectors, self.pairs)]
        theirs = [teacher.stages[t] for _, t in self.pairs]
        return {"fsp": self.options.weight * sum(map(fsp_loss, pairwise(ours), pairwise(theirs)))}
