"""Scale Decoupled Distillation (SDD). Wei, Luo and Luo, CVPR 2024, arXiv:2403.13512.

KD for the image as a whole and for each cell of its last map, whose logits the classifier gives too. A cell that the
teacher takes for another class than the image counts more: it may show why an image is hard to tell.

Different here: a cell counts more where the teacher's class of it is not the teacher's class of the image; the public
code asks whether one of both is right and the other not. Some students have a layer between their last map and the
classifier: they get their cells' logits as in ``cat-kd``.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.cat_kd import check_class_maps, class_maps
from kdcompress.methods.fields import label_weight, loss_weight, softening
from kdcompress.models.taps import Tapped, Taps, TapShapes


def sdd_loss(student: Tensor, teacher: Tensor, temperature: float, differing: float) -> Tensor:
    """T^2 * KL(teacher || student) of P places, ``differing`` times for those whose largest logit is not the first
    place's, both the teacher's: logits [N, P, K], of which the first are the image's.

    In nats, averaged over places and batch, a float32 scalar."""
    log_p, log_q = (F.log_softmax(z.float() / temperature, 2) for z in (student, teacher))
    apart = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(2) * temperature**2
    seen = teacher.argmax(2)
    return (torch.where(seen == seen[:, :1], 1.0, differing) * apart).mean()


def cells(logits: Tensor, maps: Tensor, scales: list[int]) -> Tensor:
    """Logits [N, 1 + sum of scales^2, K]: the image's ``logits`` [N, K], and those of the cells of each scale, averaged
    over their places in class maps [N, K, H, W]."""
    found = [F.adaptive_avg_pool2d(maps.float(), scale).flatten(2).mT for scale in scales]
    return torch.cat([logits.float()[:, None], *found], 1)


@methods.register("sdd")
class SDD(Method):
    """KD of the image and of its cells: the student learns what the teacher sees in each part."""

    class Options(MethodOptions):
        task_weight: float = label_weight(0.1, "The public code uses 0.1 on CIFAR-100.")
        weight: float = loss_weight(0.9, "The public code uses 0.9 on CIFAR-100.")
        temperature: float = softening(4.0, "The public code uses 4 on CIFAR-100.")
        scales: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
            (2, 4),
            min_length=1,
            max_length=16,
            description="How many cells each side of the last map is divided into, besides the image as a whole. "
            "Those that the map is too small for are left out. The paper uses 2 and 4.",
        )
        differing: float = Field(
            2.0,
            ge=0,
            description="How often a cell counts that the teacher takes for another class than the image. The public "
            "code uses 2.",
        )

    paper = "arXiv:2403.13512"
    # stages: is it a plain transformer?
    needs = Needs(student="logits+last+pooled", teacher="logits+last+pooled+stages", one_label=True)

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> bool:
        """Attaches nothing. Returns whether the student's own classifier gives its class maps."""
        assert teacher is not None
        return check_class_maps("sdd", student, teacher)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        assert student.last is not None and teacher.last is not None
        least = min(side for last in (student.last, teacher.last) for side in (last.height, last.width))
        self.scales = [scale for scale in self.options.scales if scale <= least]
        if not self.scales:
            raise UsageError(
                "The last map has fewer places than cells on each side.",
                where="method.sdd.scales",
                got=f"student {student.last}, teacher {teacher.last}",
                allowed=f"a scale of at most {least}",
                hint="use method: kd where the map cannot be divided",
            )
        self.classify = None if self.attached else nn.Conv2d(student.last.channels, student.classes, 1)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o = self.options
        ours = cells(student.logits, class_maps(student.last, self.classify or student.classifier), self.scales)
        theirs = cells(teacher.logits, class_maps(teacher.last, teacher.classifier), self.scales)
        return {"sdd": o.weight * sdd_loss(ours, theirs, o.temperature, o.differing)}
