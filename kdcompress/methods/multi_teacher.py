"""Several teachers: averaged (Learning from Multiple Teacher Networks. You, Xu, Xu and Tao, KDD 2017) or weighted for
each image by how well they know it (Confidence-Aware Multi-Teacher Knowledge Distillation, CA-MKD. Zhang, Chen and
Wang, ICASSP 2022, arXiv:2201.00007). Of both, the loss on the logits; not that on features or triplets."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.models.taps import Taps


def confidence(teachers: Tensor, y: Tensor) -> Tensor:
    """Weights [M, N] of M teachers with logits [M, N, K], by their cross-entropy with the labels ``y`` int64 [N]:
    (1 - softmax over the teachers) / (M - 1), section 2 of CA-MKD. They sum to 1 over the teachers (the official
    code divides by M once more)."""
    m, n, k = teachers.shape
    if m == 1:
        return torch.ones(1, n, device=teachers.device)
    entropies = F.cross_entropy(teachers.float().flatten(0, 1), y.repeat(m), reduction="none").view(m, n)
    return (1 - entropies.softmax(0)) / (m - 1)


def multi_teacher_loss(student: Tensor, teachers: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """T^2 * KL of the student's logits [N, K] from each teacher's [M, N, K], summed over the teachers with weights
    [M, N] and averaged over the batch; a float32 scalar."""
    log_p = F.log_softmax(student.float() / temperature, dim=-1).expand(teachers.shape)
    log_q = F.log_softmax(teachers.float() / temperature, dim=-1)
    divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    return temperature**2 * (weights * divergence).sum(0).mean()


@methods.register("multi-teacher")
class MultiTeacher(Method):
    """KD from several teachers. All count the same, or each counts more for the images that it knows well."""

    class Options(LogitOptions):
        weight: float = loss_weight(1.0)
        temperature: float = softening(4.0)
        weighting: Literal["average", "adaptive"] = Field(
            "adaptive",
            description="How much each teacher counts. average: all the same. adaptive: more for an image "
            "whose label it knows well, as in CA-MKD.",
        )

    paper = "arXiv:2201.00007"
    needs = Needs(teacher="logits", several=True, one_label=True, truth=True)

    def terms(self, batch: Batch, student: Taps, teacher: list[Taps], progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)
        teachers = torch.stack([taps.logits[:n].float() for taps in teacher])
        equal = torch.full(teachers.shape[:2], 1 / len(teacher), device=teachers.device)
        weights = confidence(teachers, batch.y) if o.weighting == "adaptive" else equal
        return {"teachers": o.weight * multi_teacher_loss(student.logits[:n], teachers, weights, o.temperature)}
