"""Intra-class Feature Variation Distillation for Semantic Segmentation. Wang, Zhou, Jiang, Bai and Xu, ECCV 2020: how
far each pixel's feature is from the mean of its class.

As in the public code, the means are those of an image. Ours: places that the class map ignores do not count, and maps
are compared at every paired stage, where the paper compares the last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcompress.class_maps import IGNORED
from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import same_size
from kdcompress.methods.fields import stages_weight
from kdcompress.models.taps import Taps


def variation(maps: Tensor, classes: Tensor) -> Tensor:
    """The cosine of each place's feature with the mean of the features of its class in the image (equation 2 of the
    paper): float32 [N, P], of maps [N, C, H, W] and class numbers int64 [N, H, W]."""
    features = maps.float().flatten(2)
    numbers = classes.flatten(1)[:, None].expand_as(features)
    sums = features.new_zeros(*features.shape[:2], IGNORED + 1).scatter_add(2, numbers, features)
    counts = torch.zeros_like(sums).scatter_add(2, numbers, torch.ones_like(features))
    centres = (sums / counts.clamp(min=1)).gather(2, numbers)
    return F.cosine_similarity(features, centres, dim=1, eps=1e-6)


def ifvd_loss(student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference of the variations (equation 3 of the paper).

    ``student`` and ``teacher`` are maps [N, C, H, W] of any float type and any widths, compared at the smaller of their
    sizes; ``y`` the images' class maps, uint8 [N, H, W], of which each place takes the nearest. A float32 scalar,
    averaged over all places that are not ignored."""
    s, t = same_size(student[: len(y)], teacher[: len(y)])
    classes = F.interpolate(y[:, None].float(), s.shape[-2:], mode="nearest-exact")[:, 0].long()
    judged = (classes != IGNORED).flatten(1)
    difference = (variation(s, classes) - variation(t, classes)) ** 2
    return (difference * judged).sum() / judged.sum().clamp(min=1)


@methods.register("ifvd")
class IFVD(Method):
    """At each stage the student learns how far a pixel's feature is from the mean of its class, from the teacher's."""

    class Options(MethodOptions):
        weight: float = stages_weight(50.0, "The public code uses 50 for PSPNet.")

    family = "feature"
    paper = "Wang et al., ECCV 2020"
    needs = Needs(student="stages", teacher="stages", class_maps=True)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        if not len(batch.y):
            return {"ifvd": student.logits.sum() * 0.0}
        losses = [ifvd_loss(student.stages[s], teacher.stages[t], batch.y) for s, t in self.pairs]
        return {"ifvd": self.options.weight * torch.stack(losses).sum()}
