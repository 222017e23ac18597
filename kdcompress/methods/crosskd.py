"""CrossKD: Cross-Head Knowledge Distillation for Object Detection. Wang, Chen, Zheng, Li, Cheng and Hou, CVPR 2024,
arXiv:2306.11369.

What the student's towers hold goes on through the rest of the teacher's frozen head. What comes out of that learns the
teacher's answer, so that the student's own last layers learn from the labels alone.

Ours: sums are divided by the sum of the teacher's best scores, where the public code divides those of the labels by
what its loss of the truth is divided by. Where several processes train, the statistics are those of all images.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.distributed import processes, total
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.dense import answers, best_score, divergence, over
from kdcompress.models.detectors.towers import Steps, Towered, giou_loss, quality_focal
from kdcompress.models.taps import Tapped, Taps


def aligned(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    """The student's map with the mean and the deviation of each of the teacher's channels, over batch and places;
    float32. ``student`` and ``teacher`` [N, C, H, W]. A channel of the student's that is constant becomes the teacher's
    mean."""
    (mean, variance), (their_mean, their_variance) = moments(student.float()), moments(teacher.float())
    varies = variance > (eps * mean.abs().clamp(min=1.0)).square()
    scale = their_variance.sqrt() * torch.where(varies, variance, 1.0).rsqrt() * varies
    return (student.float() - mean) * scale + their_mean


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [1, C, 1, 1] of maps [N, C, H, W], over the batch of all processes."""
    mean = total(x.mean((0, 2, 3), keepdim=True)) / processes()
    return mean, total((x - mean).square().mean((0, 2, 3), keepdim=True)) / processes()


def crossed(head: Towered, student: Steps, teacher: Steps, reused: int) -> Steps:
    """The steps that the towers of the teacher's ``head`` take where, in place of its own map, the last ``reused``
    convolutions and what stands behind them get the student's."""
    found: Steps = {}
    for name, tower in head.towers.items():
        found[name] = []
        for level, (ours, theirs) in enumerate(zip(student[name], teacher[name], strict=True)):
            x = aligned(ours[-1 - reused], theirs[-1 - reused])
            found[name].append(tower.steps(x, level, len(theirs) - 1 - reused))  # type: ignore[operator]
    return found


def crosskd_loss(cross: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Of what the teacher's head says of the student's maps, and what it says of its own: the loss of the labels, of
    logits ``cross`` and ``teacher`` [N, P, K], and of the boxes (section 3.3). ``ours`` and ``theirs`` are boxes
    [N, P, 4] in pixels, compared by GIoU, or the logits of distributions [N, P, 4, B], by their divergence.

    Two float32 scalars: sums over all places, that of the boxes weighted by the teacher's best score, divided by the
    sum of these scores, 1 at least. They depend on neither the batch size nor the number of places.
    """
    weights = best_score(teacher)
    away = divergence(ours, theirs) if ours.ndim == 4 else giou_loss(ours, theirs)
    return over(quality_focal(cross, teacher.float().sigmoid(), beta=1), weights), over(weights * away, weights)


@methods.register("crosskd")
class CrossKD(Method):
    """The teacher's head, given what the student's towers hold, learns to say what it says of its own: the student's
    maps do."""

    class Options(MethodOptions):
        classes: float = Field(
            1.0,
            ge=0,
            description="Weight of the loss of the labels' scores. The public code uses 1 for GFL, 0.4 for FCOS.",
        )
        boxes: float = Field(
            1.0,
            ge=0,
            description="Weight of the loss of the boxes. The public code uses 0.75 for FCOS, 1 for RetinaNet and 4 "
            "for GFL.",
        )
        reused: int = Field(
            1,
            ge=0,
            le=4096,
            description="How many of the teacher's convolutions in each tower the student's maps go through, before "
            "its last layer. The paper uses 1 of 4, and 2 of 4 for FCOS.",
        )

    paper = "arXiv:2306.11369"
    needs = Needs(student="answer", teacher="answer", boxes=True)

    @classmethod
    def attach(cls, options: Options, student: Tapped, teacher: Tapped | None) -> tuple[Towered]:
        """Returns the teacher's network, not as a module of this one."""
        assert teacher is not None
        answers("crosskd", student, teacher)
        ours, theirs = student.model, teacher.model
        what = "crosskd sends the student's maps through the teacher's head:"
        if not isinstance(ours, Towered) or not isinstance(theirs, Towered) or type(ours) is not type(theirs):
            raise UsageError(
                f"{what} both heads must be of one family, with one stage.",
                got=f"student {type(ours).__name__}, teacher {type(theirs).__name__}",
                hint="set student.model to the teacher's head: fcos/BACKBONE, retinanet/BACKBONE or gfl/BACKBONE",
            )
        for option, mine, other in (
            ("width", ours.width, theirs.width),
            ("levels", ours.pyramid.strides, theirs.pyramid.strides),
        ):
            if mine != other:
                hint = f"set student.options.{option} to the teacher's"
                got = f"student {mine}, teacher {other}"
                raise UsageError(f"{what} both must have the same {option}.", got=got, hint=hint)
        depths = {role: net.depth for role, net in (("student", ours), ("teacher", theirs))}
        if options.reused > min(depths.values()):
            raise UsageError(
                "crosskd cannot use so many of the teacher's convolutions.",
                where="method.crosskd.reused",
                got=options.reused,
                allowed=f"0 to {min(depths.values())}",
                hint="the towers' `depth` is {student} in the student and {teacher} in the teacher".format(**depths),
            )
        return (theirs,)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        (head,), o = self.attached, self.options
        ours: Any = student.answer
        theirs: Any = teacher.answer
        cross = head.answer(crossed(head, ours.steps, theirs.steps, o.reused), theirs.size)
        away = [each.bins if hasattr(each, "bins") else each.boxes() for each in (cross, theirs)]
        classes, boxes = crosskd_loss(cross.logits, theirs.logits, *away)
        return {"classes": o.classes * classes, "boxes": o.boxes * boxes}
