"""Knowledge Distillation Meets Self-Supervision. Xu, Liu, Li and Loy, ECCV 2020, arXiv:2006.07114.

Different here: the teacher's self-supervision head is trained during the first share of the student's training, not
before it, and the student imitates it from then on. As in the authors' code for CIFAR, the transformations are
rotations.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import as_buffers
from kdcompress.methods.fields import label_weight
from kdcompress.methods.kd import kd_loss
from kdcompress.methods.relations import cosines, pooled, pooled_widths
from kdcompress.models.taps import Taps, TapShapes


def kept(scores: Tensor, target: Tensor, share: float) -> Tensor:
    """Bool [N], which of ``scores`` [N, K] to learn from (error-level ranking, section 3): those with the ``target``
    [N] first, and of the others the ``share`` with the target nearest to the first place."""
    errors = (scores > scores.gather(1, target[:, None])).sum(1)
    place = errors.argsort(stable=True).argsort()
    wrong = (errors > 0).sum()
    return place < len(scores) - wrong + (share * wrong).floor()


def selected_loss(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)) of [N, K], averaged over the rows to ``keep`` (bool [N]).
    Float32, in log space; 0 where no row is kept."""
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    return temperature**2 * (divergence * keep).sum() / keep.sum().clamp(min=1)


def head(width: int) -> nn.Sequential:
    """The self-supervision module: a perceptron of two layers on the pooled feature [N, width]."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


@methods.register("sskd")
class SSKD(Method):
    """The student learns the teacher's classes for images and their rotations. It also learns how near the teacher sees
    each rotated image to each original. An iteration sees four times the images."""

    class Options(MethodOptions):
        task_weight: float = label_weight(0.1)
        kd_weight: float = Field(0.9, ge=0, description="Weight of the loss on the images as they are (KD).")
        tf_weight: float = Field(2.7, ge=0, description="Weight of the loss on the classes of the rotated images.")
        ss_weight: float = Field(
            10.0, ge=0, description="Weight of the loss on how similar rotated and original images are."
        )
        kd_temperature: float = Field(4.0, ge=0.01, le=1000, description="Temperature for the images as they are.")
        tf_temperature: float = Field(4.0, ge=0.01, le=1000, description="Temperature for the rotated images.")
        ss_temperature: float = Field(0.5, ge=0.01, le=1000, description="Temperature for the similarities.")
        tf_share: float = Field(
            1.0,
            ge=0,
            le=1,
            description="Share of the rotated images that the teacher classifies wrongly and the student "
            "still learns from; those nearest to right come first.",
        )
        ss_share: float = Field(
            0.75,
            ge=0,
            le=1,
            description="Share of the rotated images that the teacher matches wrongly and the student still "
            "learns from; those nearest to right come first.",
        )
        head_share: float = Field(
            0.1,
            gt=0,
            lt=1,
            description="Share of the training, from `since` on, in which the teacher's head for similarities "
            "is trained.",
        )

    family = "relation"
    paper = "arXiv:2006.07114"
    needs = Needs(student="logits+pooled", teacher="logits+pooled", whole_batch=True, one_label=True, truth=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if student.input[1] != student.input[2]:
            raise UsageError("sskd rotates images, so they must be square.", got="x".join(map(str, student.input)))
        ours, theirs = pooled_widths(student, teacher)
        self.student_head, self.teacher_head = head(ours), head(theirs)
        self.frozen_head = as_buffers(self.teacher_head)

    def prepare(self, batch: Batch, progress: float) -> Batch:
        if len(batch.x) != len(batch.y):
            raise UsageError("sskd adds its rotated images to a batch to which another method has added images.")
        x = torch.cat([torch.rot90(batch.x, turns, (2, 3)) for turns in range(4)])
        last = batch.x.is_contiguous(memory_format=torch.channels_last)
        return replace(batch, x=x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)
        learning = progress < o.since + o.head_share
        if learning:
            with torch.no_grad():
                for frozen, trained in zip(self.frozen_head.buffers(), self.teacher_head.parameters()):
                    frozen.copy_(trained)
        s, t = pooled(student, teacher)
        embedded = self.student_head(s), self.frozen_head(t), self.teacher_head(t)
        ours, theirs, learnt = (cosines(e[n:], e[:n]) for e in embedded)
        origin = torch.arange(n, device=batch.y.device).repeat(3)
        s, t = student.logits, teacher.logits
        keep_tf = kept(t[n:], batch.y.repeat(3), o.tf_share)
        keep_ss = kept(theirs, origin, o.ss_share)
        return {
            "kd": o.kd_weight * kd_loss(s[:n], t[:n], o.kd_temperature),
            "tf": o.tf_weight * selected_loss(s[n:], t[n:], o.tf_temperature, keep_tf),
            "ss": (not learning) * o.ss_weight * selected_loss(ours, theirs, o.ss_temperature, keep_ss),
            "head": learning * F.cross_entropy(learnt, origin),
        }
