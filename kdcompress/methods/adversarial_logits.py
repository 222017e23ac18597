"""Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional Adversarial Networks.
Xu, Hsu and Huang, ICLR 2018 workshop, arXiv:1709.00513.

From the paper: a discriminator looks at logits. It tells the teacher's from the student's and, as an auxiliary
classifier (AC-GAN), the image's class. The student fools it, is to be of the right class in its eyes as well, and comes
near to the teacher's logits in the L1 distance; it learns from the labels too.

Different here: discriminator and student move in one step, from one forward, where the paper takes turns. Each has
a loss of its own whose gradient reaches nothing but its own parameters (the other side is a constant in it), so a step
is what both turns are to first order in the learning rate; what each plays against is at most one step older. The
student raises the log-odds of being the teacher rather than lowers those of being itself: the fixed point is the same,
and the gradient does not vanish where the discriminator is sure. The discriminator has layer norms, so rows do not
depend on each other. The L1 distance is averaged over the classes. Weights and widths are ours. Without the L1 distance
a student may stay where the discriminator is sure and flat; that distance leads it out.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import as_constant, in_float32
from kdcompress.methods.fields import loss_weight
from kdcompress.models.taps import Taps, TapShapes


def class_loss(judged: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of the classes that the discriminator sees in the first rows with ``y``, class numbers [B] or
    shares of classes [B, K]; 0 where there is none. A float32 scalar."""
    if not len(y):
        return judged.sum() * 0.0
    return F.cross_entropy(judged[: len(y), :-1].float(), y)


def discriminator_loss(student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    """-log P(student | student's) - log P(teacher | teacher's) - log P(class | either's), halved.

    ``student`` and ``teacher`` are what the discriminator says of both sides' logits, [N, K + 1] of any float type: a
    logit for each class, then the log-odds of being the teacher's. Averaged over the batch, a float32 scalar."""
    told = F.softplus(student[:, -1].float()).mean() + F.softplus(-teacher[:, -1].float()).mean()
    return (told + class_loss(student, y) + class_loss(teacher, y)) / 2


def fooling_loss(student: Tensor, y: Tensor) -> Tensor:
    """-log P(teacher | student's) - log P(class | student's), halved; ``student`` as in ``discriminator_loss``."""
    return (F.softplus(-student[:, -1].float()).mean() + class_loss(student, y)) / 2


def l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The absolute difference of logits [N, K], averaged over classes and batch; a float32 scalar."""
    return F.l1_loss(student.float(), teacher.float())


@methods.register("adversarial-logits")
class AdversarialLogits(Method):
    """A discriminator learns to tell the student's logits from the teacher's. The student learns to fool it."""

    class Options(MethodOptions):
        weight: float = loss_weight(0.1, "Of fooling the discriminator.")
        l1: float = Field(1.0, ge=0, description="Weight of the L1 distance to the teacher's logits.")
        discriminator: float = Field(
            0.1,
            ge=0,
            description="Weight of the discriminator's own loss, which moves nothing else: how fast it learns.",
        )
        width: int = Field(
            64, ge=2, le=65_536, description="Units in each of the two hidden layers of the discriminator."
        )

    paper = "arXiv:1709.00513"
    needs = Needs(teacher="logits", one_label=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        width, classes = self.options.width, student.classes
        self.discriminator = nn.Sequential(
            *(nn.Linear(classes, width), nn.LayerNorm(width), nn.LeakyReLU(0.2)),
            *(nn.Linear(width, width), nn.LayerNorm(width), nn.LeakyReLU(0.2)),
            nn.Linear(width, classes + 1),
        )

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, ours, theirs = self.options, student.logits.float(), teacher.logits.detach().float()
        with in_float32(ours):
            told = discriminator_loss(self.discriminator(ours.detach()), self.discriminator(theirs), batch.y)
            fooled = fooling_loss(as_constant(self.discriminator, ours), batch.y)
        return {
            "adversarial": o.weight * fooled,
            "l1": o.l1 * l1_loss(ours, theirs),
            "discriminator": o.discriminator * told,
        }
