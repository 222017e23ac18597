"""Cross-Layer Distillation with Semantic Calibration (SemCKD). Chen, Mei, Zhang, Wang, Wang, Feng and Chen, AAAI 2021,
arXiv:2012.03236.

Every student stage learns from every teacher stage. For each image, attention says how much from which. The paper adds
the loss to cross-entropy and KD: for that, name ``kd`` as a second method.

Different here: queries and keys are made from each stage's pooled channels. The official code makes them from rows of
the batch's similarity matrices, with layers as wide as the batch. There an image's attention depends on the other
images of its batch, and every batch must have the same size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import same_size
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.simkd import bottleneck
from kdcompress.models.taps import Taps, TapShapes


def semckd_loss(distances: Tensor, queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Distances [N, S, T] between S student and T teacher stages, weighted by the attention of queries [N, S, D] to
    keys [N, T, D], a softmax over the teacher's stages of their cosine / temperature. Averaged over
    the batch and the student's stages; a float32 scalar."""
    q, k = F.normalize(queries.float(), dim=2, eps=1e-6), F.normalize(keys.float(), dim=2, eps=1e-6)
    attention = ((q[:, :, None] * k[:, None]).sum(3) / temperature).softmax(2)
    return (attention * distances.float()).sum(2).mean()


def embedding(channels: int, width: int) -> nn.Sequential:
    """A map [N, channels, H, W] -> [N, width]."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(pool, nn.Linear(channels, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


@methods.register("semckd")
class SemCKD(Method):
    """Each of the student's stages learns from the teacher's stages that mean the same. A learnt attention finds
    them."""

    class Options(MethodOptions):
        weight: float = loss_weight(400.0)
        temperature: float = Field(
            1.0,
            ge=0.01,
            le=1000,
            description="Temperature of the attention over the teacher's stages. Higher: it is spread more evenly.",
        )
        width: int = Field(
            16,
            ge=1,
            le=65_536,
            description="Width of the attention's queries and keys. The official code uses a quarter of the batch.",
        )

    family = "feature"
    paper = "arXiv:2012.03236"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        ours, theirs = ([stage.channels for stage in shapes.stages] for shapes in (student, teacher))
        self.queries = nn.ModuleList(embedding(channels, self.options.width) for channels in ours)
        self.keys = nn.ModuleList(embedding(channels, self.options.width) for channels in theirs)
        self.projectors = nn.ModuleList(
            nn.ModuleList(nn.Sequential(*bottleneck(channels, 2 * out, out)) for out in theirs) for channels in ours
        )

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        queries = torch.stack([query(stage) for query, stage in zip(self.queries, student.stages)], 1)
        keys = torch.stack([key(stage) for key, stage in zip(self.keys, teacher.stages)], 1)
        rows = []
        for stage, projectors in zip(student.stages, self.projectors):
            assert isinstance(projectors, nn.ModuleList)
            for projector, target in zip(projectors, teacher.stages):
                source, target = same_size(stage, target)
                rows.append((projector(source).float() - target.float()).square().mean((1, 2, 3)))
        distances = torch.stack(rows, 1).unflatten(1, (len(student.stages), len(teacher.stages)))
        return {"semckd": self.options.weight * semckd_loss(distances, queries, keys, self.options.temperature)}
