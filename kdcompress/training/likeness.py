"""How like the teacher's the student's features are: what a pre-training is judged by, which has no labels."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcompress.data.loader import eval_batches
from kdcompress.data.splits import Split
from kdcompress.models.taps import Taps
from kdcompress.training.distillation import Distillation, Member

BATCH = 256  # images
MOST = 1024  # images that are looked at: the teacher may be large


def alike(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features [N, D] and [N, E] of the same images, in per cent: 100 where they are
    one another, turned and scaled, and 0 where they have nothing in common (Kornblith et al., ICML 2019,
    arXiv:1905.00414, equation 3; by the covariances, which are smaller than the kernels). 0 of features that do not
    change."""
    x, y = ((z.double() - z.double().mean(0)) for z in (x, y))
    both, own, other = ((a.T @ b).norm() for a, b in ((x, y), (x, x), (y, y)))
    return float(100 * both.square() / (own * other).clamp(min=torch.finfo(torch.float64).tiny))


class Likeness:
    """``likeness()``: of the student's features of the first ``MOST`` images of a split to the teacher's, which are
    computed when it is first asked for. Both run in eval mode."""

    def __init__(self, distillation: Distillation, split: Split, device: torch.device, channels_last: bool):
        self.student, self.teacher = distillation.student, distillation.teachers[0]
        self.split = Split(split.images[:MOST], split.truth[:MOST])
        self.device, self.channels_last = device, channels_last
        self.theirs: Tensor | None = None

    def __call__(self) -> float:
        if self.theirs is None:
            self.theirs = self._features(self.teacher)
        return alike(self._features(self.student), self.theirs)

    @torch.no_grad()
    def _features(self, member: Member) -> Tensor:
        training = member.training
        member.eval()
        batches = eval_batches(self.split, BATCH, self.device, self.channels_last)
        found = torch.cat([feature_in(member(batch.x)).float() for batch in batches])
        member.train(training)
        return found


def feature_in(taps: Taps) -> Tensor:
    """The feature of each image [N, D]: the pooled one, else the means over the places of all maps."""
    if taps.pooled is not None and taps.logits.ndim == 2:
        return taps.pooled
    maps = taps.stages or ([] if taps.last is None else [taps.last])  # a method on features reads one of them
    return torch.cat([map.float().mean((2, 3)) for map in maps], 1)
