"""Knowledge Distillation from A Stronger Teacher (DIST). Huang, You, Wang, Qian and Xu, NeurIPS 2022,
arXiv:2205.10536."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import softening
from kdcompress.models.taps import Taps, TapShapes


def pearson_distance(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """1 - Pearson's correlation along ``dim`` of [N, K], averaged over the other; a constant line has a correlation
    of 0."""
    a, b = (t - t.mean(dim, keepdim=True) for t in (a, b))
    return 1 - F.cosine_similarity(a, b, dim=dim).mean()


def dist_loss(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The inter-class and the intra-class relation (section 3), each times T^2, of logits [N, K]; two float32 scalars,
    averaged over rows and over columns.

    The second compares a class across the batch: 1 for a batch of one.
    """
    p, q = (F.softmax(z.float() / temperature, dim=1) for z in (student, teacher))
    return temperature**2 * pearson_distance(p, q, 1), temperature**2 * pearson_distance(p, q, 0)


@methods.register("dist")
class DIST(Method):
    """The student's probabilities learn to correlate with the teacher's, over the classes of an image and over a
    batch."""

    class Options(LogitOptions):
        inter: float = Field(
            2.0,
            ge=0,
            description="Weight of the loss along the classes: within each image, the probabilities must rise "
            "and fall as the teacher's do. The reference code uses 2 on CIFAR-100.",
        )
        intra: float = Field(
            2.0,
            ge=0,
            description="Weight of the loss along the batch: for each class, the probabilities must rise and "
            "fall over the images as the teacher's do. The reference code uses 2 on CIFAR-100.",
        )
        temperature: float = softening(4.0, "The paper uses 4 on CIFAR-100 and 1 on ImageNet.")

    paper = "arXiv:2205.10536"
    needs = Needs(teacher="logits", whole_batch=True, one_label=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if student.classes == 2:
            if not self.options.intra:
                raise UsageError(
                    "With 2 classes, dist learns nothing while `intra` is 0.",
                    got="intra=0; two probabilities that add up to 1 always correlate fully, or not at all",
                    hint="method.dist.intra=2, or method: kd",
                )
            self.note = "dist: of 2 classes the relation along the classes (inter) teaches nothing; intra does"

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        inter, intra = dist_loss(student.logits, teacher.logits, o.temperature)
        return {"inter": o.inter * inter, "intra": o.intra * intra}
