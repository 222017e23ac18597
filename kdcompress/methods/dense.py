"""What detectors answer, compared place by place: labels and boxes, weighted by what a teacher sees there. Nearly all
places are background, which would drown a mean over all of them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdcompress.distributed import processes, total
from kdcompress.errors import UsageError
from kdcompress.methods.heads import look
from kdcompress.models.taps import Tapped


def answers(name: str, student: Tapped, teacher: Tapped) -> tuple[Any, Any]:
    """The answers of both to two images. Raises UsageError, for the method of this name, where one of them has no boxes
    for its places, or where their pixels are not of one size."""
    found = []
    for role, tapped in (("student", student), ("teacher", teacher)):
        answer = look(tapped).answer
        if not hasattr(answer, "boxes"):
            raise UsageError(
                f"{name} compares boxes place by place, and the {role} gives none.",
                where=f"{role}.model",
                got=type(tapped.model).__name__,
                hint="take a one-stage detector: fcos/BACKBONE, retinanet/BACKBONE or gfl/BACKBONE",
            )
        found.append(answer)
    sizes = [tapped.shapes.input[1:] for tapped in (student, teacher)]
    if sizes[0] != sizes[1]:
        got = "student {}x{}, teacher {}x{}".format(*sizes[0], *sizes[1])
        raise UsageError(f"{name} compares boxes in pixels: both networks must see images of one size.", got=got)
    return found[0], found[1]


def best_score(logits: Tensor) -> Tensor:
    """[N, P]: the highest of a place's scores; of logits [N, P, K]."""
    return logits.float().sigmoid().amax(2)


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * KL(teacher || student) of the distributions of four distances each, in nats and averaged over the four: of
    logits [N, P, 4, B], float32 [N, P]."""
    s, t = (F.log_softmax(bins.float() / temperature, dim=3) for bins in (student, teacher))
    return temperature**2 * F.kl_div(s, t, reduction="none", log_target=True).sum(3).mean(2)


def over(values: Tensor, weights: Tensor, least: float = 1.0) -> Tensor:
    """The sum of ``values``, divided by that of ``weights`` in all processes, which is at least ``least``."""
    return values.sum() / (total(weights.sum()) / processes()).clamp(min=least)
