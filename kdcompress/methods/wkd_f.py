"""WKD-F, of Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation. Lv, Yang and Li,
NeurIPS 2024, arXiv:2412.08139.

The values of each channel, over the places of an image, are taken for a Gaussian; the student's learn to be the
teacher's in mean and deviation, wherever they are in the image.

Different here: the variance is that of the places (n, where the public code divides by n - 1), so that a map of one
place has one, and maps of unequal sizes are compared as they are. The projector ends in no ReLU, so that signed
features can be reached. Not here: the public code's grid of cells with a Gaussian each.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import regressor
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.wkd_l import falling, falling_from
from kdcompress.models.taps import Taps, TapShapes

EPS = 1e-5  # added to variances: a constant channel's deviation has a gradient else that is infinite


def gaussian_loss(student: Tensor, teacher: Tensor, ratio: float) -> Tensor:
    """``ratio`` * |mean_s - mean_t|^2 + |deviation_s - deviation_t|^2 of the channels of maps [N, C, H, W] and
    [N, C, h, w]: with a ratio of 1 the squared Wasserstein distance of Gaussians with these moments, and no
    covariances. Summed over the channels, averaged over the batch, a float32 scalar."""
    s, t = student.float().flatten(2), teacher.float().flatten(2)
    means = (s.mean(2) - t.mean(2)).square()
    deviation_s, deviation_t = ((x.var(2, correction=0) + EPS).sqrt() for x in (s, t))
    return (ratio * means + (deviation_s - deviation_t).square()).sum(1).mean()


@methods.register("wkd-f")
class WKDF(Method):
    """The channels of the student's last stage learn the mean and the deviation of the teacher's."""

    class Options(MethodOptions):
        weight: float = loss_weight(0.08, "The public code uses 0.08 on CIFAR-100 and 1 on ImageNet.")
        ratio: float = Field(
            4.0,
            ge=0,
            description="How much more the means count than the deviations. The public code uses 4 on CIFAR-100 and "
            "2 on ImageNet.",
        )
        falls_from: float = falling_from(0.625)

    family = "feature"
    paper = "arXiv:2412.08139"
    needs = Needs(student="stages", teacher="stages")

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        s, t = self.pairs[-1]
        self.regressor = regressor(student.stages[s].channels, teacher.stages[t].channels)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, (s, t) = self.options, self.pairs[-1]
        loss = gaussian_loss(self.regressor(student.stages[s]), teacher.stages[t], o.ratio)
        return {"wkd-f": o.weight * falling(progress, o.falls_from) * loss}
