"""ScaleKD: Strong Vision Transformers Could Be Excellent Teachers. Fan, Li, Liu and Yao, NeurIPS 2024,
arXiv:2411.06786.

Learned queries, one for each place of the teacher's map, look all over the student's map for what the teacher has
there: so a convolutional student can learn features that a transformer made of the whole image. Two such projectors
learn two views: the teacher's features, and what is left of them without their direct component, which drowns the rest.

The public code takes the direct component out by a discrete cosine transform; it is the mean over the places, which is
subtracted here. Different here: distances are averaged over the places, where the code sums them, so that weights do
not depend on the resolution; the queries have no convolution before the attention, which has PyTorch's layers. Not
here: the third part, in which the student's features go through the teacher's last block. A network has no such block
that could be taken out of any model; ``fcfd`` does something alike. The paper adds KD: for that, name ``kd`` as a
second method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.skd import LEAST
from kdcompress.models.taps import Stage, Taps, TapShapes

HEAD = 32  # channels of a head of the attention, at least


class Projector(nn.Module):
    """The student's map [N, channels, h, w] as the teacher's [N, C, H, W], by cross-attention: queries and
    the position of each key are learned, and a feed-forward layer follows."""

    def __init__(self, ours: Stage, theirs: Stage):
        super().__init__()
        self.size, width = (theirs.height, theirs.width), theirs.channels
        convolution = nn.Conv2d(ours.channels, ours.channels, 3, padding=1, bias=False)
        self.keys = nn.Sequential(convolution, nn.BatchNorm2d(ours.channels), nn.ReLU())
        self.position = nn.Parameter(0.02 * torch.randn(ours.channels, ours.height, ours.width))
        self.queries = nn.Parameter(torch.randn(theirs.height * theirs.width, width))
        heads = next(heads for heads in range(max(1, width // HEAD), 0, -1) if width % heads == 0)
        self.attention = nn.MultiheadAttention(width, heads, kdim=ours.channels, vdim=ours.channels, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        keys = (self.keys(x) + self.position).flatten(2).mT
        found = self.attention(self.queries.expand(len(x), -1, -1), keys, keys, need_weights=False)[0]
        found = self.norm(found)
        return (found + self.feed(found)).mT.unflatten(2, self.size)


def changing(maps: Tensor) -> Tensor:
    """Maps [N, C, H, W], float32, without their direct component: the mean of each channel over the places."""
    maps = maps.float()
    return maps - maps.mean((2, 3), keepdim=True)


def direction_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the features of each place, scaled to length 1: of maps [N, C, H, W], summed over the
    channels and averaged over places and batch; a float32 scalar from 0 to 4. One shorter than ``LEAST`` stays shorter
    than 1."""
    s, t = (F.normalize(maps.float(), dim=1, eps=LEAST) for maps in (student, teacher))
    return (s - t).square().sum(1).mean()


@methods.register("scalekd")
class ScaleKD(Method):
    """The student's last stages learn to say what the teacher has at each place, wherever in the image they see it."""

    class Options(MethodOptions):
        features: float = Field(
            4.0,
            ge=0,
            description="Weight of the loss of the features, summed over the stages. The public code sums it over the "
            "places: its 0.08 is 4 for a map of 7x7.",
        )
        changes: float = Field(
            3.0,
            ge=0,
            description="Weight of the loss of the features without their direct component, summed over the stages. "
            "The public code's 0.06 is 3 for a map of 7x7.",
        )
        stages: int = Field(2, ge=1, le=1024, description="How many of the last stages are compared. The paper uses 2.")

    family = "feature"
    paper = "arXiv:2411.06786"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.last = self.pairs[-self.options.stages :]
        ends = [(student.stages[s], teacher.stages[t]) for s, t in self.last]
        self.features, self.changes = (nn.ModuleList(Projector(*end) for end in ends) for _ in range(2))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        features = changes = torch.zeros((), device=student.logits.device)
        for project, project_changes, (s, t) in zip(self.features, self.changes, self.last):
            x, target = student.stages[s], teacher.stages[t]
            features = features + direction_loss(project(x), target)
            changes = changes + direction_loss(changing(project_changes(x)), changing(target))
        return {"scalekd": self.options.features * features, "changes": self.options.changes * changes}
