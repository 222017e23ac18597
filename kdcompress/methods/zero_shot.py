"""Zero-shot Knowledge Transfer via Adversarial Belief Matching. Micaelli and Storkey, NeurIPS 2019, arXiv:1905.09768.

A generator makes images on which student and teacher differ, and the student learns from the teacher on these alone. No
training image is looked at.

Different here: both are trained by one backward pass through a gradient reversal. The paper takes ten student steps for
each one of the generator; here the generator's gradient is weighed down to a tenth. So the generator enlarges the
attention term too, and has the student's optimizer. The authors' code also averages the KL over the classes, which
makes their beta count more, by the number of classes; here the KL is the paper's sum.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.distributed import own_rows
from kdcompress.methods import methods
from kdcompress.methods.at import at_loss
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import reversed_gradient
from kdcompress.methods.fields import softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes

LARGEST_SEED = 16


def generator(latent: int, channels: int, height: int, width: int) -> nn.Sequential:
    """[N, latent] -> images [N, channels, height, width] in 0..1, after the authors' (which end in the batch norm)."""
    h, w = (min(-(-side // 4), LARGEST_SEED) for side in (height, width))

    def up(size: tuple[int, int], channels: int, out: int) -> list[nn.Module]:
        conv = nn.Conv2d(channels, out, 3, padding=1)
        return [nn.Upsample(size), conv, nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]

    seed = [nn.Linear(latent, 128 * h * w), nn.Unflatten(1, (128, h, w)), nn.BatchNorm2d(128)]
    layers = [*seed, *up((-(-height // 2), -(-width // 2)), 128, 128), *up((height, width), 128, 64)]
    return nn.Sequential(
        *layers, nn.Conv2d(64, channels, 3, padding=1), nn.BatchNorm2d(channels, affine=False), nn.Sigmoid()
    )


@methods.register("zero-shot")
class ZeroShot(Method):
    """The student learns from the teacher without data. A generator makes images on which the two differ."""

    class Options(LogitOptions):
        task_weight: float = Field(0.0, ge=0, description="Without effect: the images that are made have no labels.")
        weight: float = Field(1.0, ge=0, description="Weight of the KL divergence from the teacher's predictions.")
        temperature: float = softening(1.0)
        beta: float = Field(
            1.0, ge=0, description="Weight of the loss on attention maps. 1 here is the authors' 250 on maps of 16x16."
        )
        latent: int = Field(
            100, ge=1, le=65_536, description="Length of the random vector that the generator makes an image from."
        )
        reversal: float = Field(
            0.1,
            gt=0,
            description="Weight of the generator's gradient. 0.1 stands for the paper's ten student steps for "
            "each step of the generator.",
        )

    family = "response"
    paper = "arXiv:1905.09768"
    needs = Needs(student="logits+stages", teacher="logits+stages", one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        self.generator = generator(self.options.latent, *student.input)

    def prepare(self, batch: Batch, progress: float) -> Batch:
        z = own_rows(lambda n: torch.randn(n, self.options.latent, device=batch.x.device), len(batch))
        return Batch(reversed_gradient(self.generator(z), self.options.reversal), batch.y[:0])

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        attention = [at_loss(student.stages[s], teacher.stages[t]) for s, t in self.pairs]
        return {
            "kl": o.weight * kd_loss(student.logits, teacher.logits, o.temperature),
            "attention": o.beta * torch.stack(attention).sum(),
        }
