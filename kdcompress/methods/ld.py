"""Localization Distillation for Dense Object Detection (LD). Zheng, Ye, Wang, Ren, Zuo, Hou and Cheng, CVPR 2022,
arXiv:2102.12252.

The student learns the teacher's distributions of the distances to a box's sides: in the main region, where the student
is assigned an object, and in the valuable localization region around it.

Ours: the sums are divided by the main region's weights, and by the number of its places. The public code's grow with
the images of a batch, and it averages a divergence over the 17 bins, where this is in nats: its weight of 0.25 is about
1 here, for two or three images of COCO. What it adds for the labels is another method's: `bckd` goes with this one.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import distance_box_iou

from kdcompress.data.batch import Batch
from kdcompress.data.objects import BOX, KIND, OBJECT
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.dense import answers, best_score, divergence, over
from kdcompress.models.detectors.head_gfl import GFLAnswer, anchors, thresholds
from kdcompress.models.taps import Tapped, Taps

FAR = 4.0  # how many times less a place of the valuable region counts, as in the public code


def ld_loss(
    student: Tensor, teacher: Tensor, main: Tensor, valuable: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """T^2 * KL(teacher || student) of distributions, in the main and in the valuable localization region.

    ``student`` and ``teacher`` are logits [N, P, 4, B] of any float type, ``main`` float [N, P] the weights of the main
    region, 0 elsewhere, ``valuable`` bool [N, P] the other one. Two float32 scalars in nats, averaged over the four
    sides: sums over the places, the first divided by the sum of ``main``, the second by four times the number of places
    in the main region. By the weights it would be huge at first, while all scores are low.
    """
    apart = divergence(student, teacher, temperature)
    return over(apart * main, main, 1e-6), over(apart * valuable, FAR * (main > 0).float())


def valuable_region(answer: GFLAnswer, y: Tensor, share: float) -> Tensor:
    """Where a box can still be seen (algorithm 1), bool [N, P]: an anchor's DIoU with an object lies between ``share``
    of the object's threshold and the threshold. ``y`` float [N, M, 6] as in ``data.objects``."""
    boxes, there = y[..., BOX], y[..., KIND] == OBJECT
    *_, least = thresholds(answer.places, answer.counts, boxes)
    found = distance_box_iou(boxes.flatten(0, 1), anchors(answer.places)).unflatten(0, there.shape)
    return ((found >= share * least[..., None]) & (found <= least[..., None]) & there[..., None]).any(1)


@methods.register("ld")
class LD(Method):
    """A detector's boxes learn the teacher's doubts: for each side, how likely it is at which distance."""

    class Options(MethodOptions):
        main: float = Field(1.0, ge=0, description="Weight of the loss where the student is assigned an object.")
        valuable: float = Field(
            1.0, ge=0, description="Weight of the loss in the valuable localization region, around these places."
        )
        temperature: float = Field(
            10.0,
            ge=0.01,
            le=1000,
            description="Temperature: logits of distances are divided by it before the softmax. The paper uses 10.",
        )
        share: float = Field(
            0.25,
            ge=0,
            le=1,
            description="Share of the overlap from which on a place has an object, from which on it is in the valuable "
            "region. The paper uses 0.25.",
        )

    paper = "arXiv:2102.12252"
    needs = Needs(student="answer", teacher="answer", boxes=True, sides=True)

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> None:
        assert teacher is not None
        found = dict(zip(("student", "teacher"), answers("ld", student, teacher), strict=True))
        for role, answer in found.items():
            if not isinstance(answer, GFLAnswer):
                tapped = student if role == "student" else teacher
                raise UsageError(
                    f"ld compares distributions of distances, which the {role}'s head does not have.",
                    where=f"{role}.model",
                    got=type(tapped.model).__name__,
                    hint=f"set {role}.model to gfl/BACKBONE, or use crosskd or bckd",
                )
        bins = {role: answer.bins.shape[3] - 1 for role, answer in found.items()}
        if bins["student"] != bins["teacher"]:
            raise UsageError(
                "ld compares distributions of the same distances.",
                got="options.reach of the student {student}, of the teacher {teacher}".format(**bins),
                hint="set student.options.reach to the teacher's",
            )

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, ours, theirs = self.options, student.answer, teacher.answer
        assert isinstance(ours, GFLAnswer) and isinstance(theirs, GFLAnswer)
        with torch.no_grad():
            _, positive, ignored = ours.assigned(batch.y)
            weights = best_score(ours.logits) * positive
            around = valuable_region(ours, batch.y, o.share) & ~positive & ~ignored
        main, valuable = ld_loss(ours.bins, theirs.bins, weights, around, o.temperature)
        return {"main": o.main * main, "valuable": o.valuable * valuable}
