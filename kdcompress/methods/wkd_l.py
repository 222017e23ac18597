"""WKD-L, of Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation. Lv, Yang and Li,
NeurIPS 2024, arXiv:2412.08139.

What the student says of the classes that are not the label is carried over into what the teacher says of them, at a
cost for each pair of classes: little between classes that the teacher's features are alike for.

Different here: the classes are compared (CKA, with a linear kernel) by the kernels among the channels of the teacher's
pooled feature. The public code pairs the first image of one class with the first of another, and so on, so that its
costs depend on the order of the files. It runs the teacher over all images before; here the costs are learned from the
images of the first part of the training. Features wider than ``width`` are projected by a fixed random matrix with
orthonormal rows. Sinkhorn's scalings are logarithms, and the label's class has no mass instead of being cut out of each
image's costs, which takes N times less memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import LogitOptions, Method, Needs
from kdcompress.methods.connect import in_float32
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.relations import cosines
from kdcompress.models.taps import Taps, TapShapes

ROWS = 64  # whose products among channels are in memory at a time


def transport(log_a: Tensor, log_b: Tensor, cost: Tensor, regularization: float, iterations: int) -> Tensor:
    """What it costs to carry the masses a into b, [N]: by the plan that Sinkhorn's algorithm finds with this weight of
    the entropy, whose rows add up to a. Differentiable, through the iterations.

    ``log_a`` and ``log_b`` [N, K] are logarithms of distributions, -inf where there is no mass; ``cost`` [K, K] is at
    most 80 times ``regularization``. Float32, and finite at any masses.
    """
    with in_float32(log_a):
        kernel = torch.exp(-cost / regularization)
        log_u = torch.where(log_a.isneginf(), log_a, 0.0)
        for _ in range(iterations):
            log_v = log_b - _log_product(log_u, kernel)
            log_u = log_a - _log_product(log_v, kernel.T)
        most = log_v.detach().amax(1, keepdim=True)
        return ((log_u + most).exp() * ((log_v - most).exp() @ (kernel * cost).T)).sum(1)


def _log_product(logs: Tensor, matrix: Tensor) -> Tensor:
    """log(exp(logs) @ matrix)."""
    most = logs.detach().amax(1, keepdim=True)
    return ((logs - most).exp() @ matrix).log() + most


def wkd_loss(
    student: Tensor,
    teacher: Tensor,
    y: Tensor,
    cost: Tensor,
    temperature: float,
    regularization: float,
    iterations: int,
) -> Tensor:
    """The Wasserstein distance of the softened probabilities of the classes that are not the label.

    Logits [N, K], ``y`` int64 [N], ``cost`` [K, K] from 0 to 1. A float32 scalar, averaged over the batch; 0 with two
    classes.
    """
    label = F.one_hot(y, student.shape[1]).bool()
    log_a, log_b = (
        F.log_softmax((z.float() / temperature).masked_fill(label, -torch.inf), 1) for z in (student, teacher)
    )
    return transport(log_a, log_b, cost, regularization, iterations).mean()


def target_loss(student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    """-p_t log p_s of the label, where p_t is the teacher's probability: logits [N, K] and classes int64 [N]; averaged
    over the batch, a float32 scalar."""
    sure = F.softmax(teacher.float(), 1).gather(1, y[:, None])
    return -(sure * F.log_softmax(student.float(), 1).gather(1, y[:, None])).mean()


def class_costs(kernels: Tensor, sharpness: float) -> Tensor:
    """1 - exp(-sharpness * (1 - CKA)) for each two classes, [K, K] with 0 on the diagonal.

    ``kernels`` [K, D, D]: of each class, the sum of the products of centred channels. A class that was not seen has a
    CKA of 0.
    """
    alike = cosines(kernels.flatten(1), kernels.flatten(1))
    cost = -torch.expm1(sharpness * (alike - 1))
    return cost.clamp(min=0) * (1 - torch.eye(len(cost), device=cost.device))


def add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> None:
    """sums[index[i]] += rows[i] for all i, the same to the bit each time: on a GPU, where ``index_add_`` adds in
    whatever order comes, rows of one index are sorted first."""
    if sums.device.type == "cpu":
        sums.index_add_(0, index, rows)
    else:
        sums.index_put_((index,), rows, accumulate=True)


def falling(progress: float, since: float) -> float:
    """The share of a weight that is left when it falls to 0 with the cosine, from ``since`` to the end."""
    return 1.0 if progress <= since else (1 + math.cos(math.pi * (progress - since) / (1 - since))) / 2


def falling_from(default: float) -> Any:
    text = "Share of the training from which the weight falls to 0, with the cosine. 1: it does not fall. "
    return Field(default, ge=0, le=1, description=text + "The public code's falls from epoch 150 of 240 on CIFAR-100.")


@methods.register("wkd-l")
class WKDL(Method):
    """What the student says of the other classes moves to what the teacher says of them, by way of classes that are
    alike."""

    class Options(LogitOptions):
        weight: float = loss_weight(600.0, "Of the distance. The public code uses 600 on CIFAR-100, 10 on ImageNet.")
        target: float = Field(
            1.0,
            ge=0,
            description="Weight of the cross-entropy with the label, times the teacher's probability of it. The "
            "public code uses 1.",
        )
        temperature: float = softening(8.0, "Of the distance. The public code uses 8 on CIFAR-100, 2 on ImageNet.")
        falls_from: float = falling_from(0.625)
        regularization: float = Field(
            0.05,
            ge=0.02,
            le=100,
            description="Weight of the plan's entropy. Larger: mass is spread more evenly. The public code uses 0.05.",
        )
        iterations: int = Field(10, ge=1, le=1000, description="Of Sinkhorn's algorithm. The public code uses 10.")
        sharpness: float = Field(
            1.0,
            gt=0,
            le=100,
            description="How fast the cost rises where two classes become less alike. The public code uses 1.",
        )
        learn_share: float = Field(
            0.05, ge=0, le=1, description="Share of the training, at its start, in which the classes are compared."
        )
        width: int = Field(
            256,
            ge=2,
            le=4096,
            description="Channels by which classes are compared, at most; it takes K x width^2 x 4 bytes.",
        )

    paper = "arXiv:2412.08139"
    needs = Needs(teacher="logits+pooled", whole_batch=True, one_label=True, truth=True)
    kernels: Tensor
    projection: Tensor
    cost: Tensor

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        if teacher.pooled is None:
            raise UsageError(
                "The teacher has no pooled feature to compare classes by.",
                allowed="networks that end in a linear layer, whose input the pooled feature is",
                hint="use a method on logits alone, such as dkd or rld",
            )
        if student.classes == 2:
            if not self.options.target:
                raise UsageError(
                    "With 2 classes, wkd-l learns nothing while `target` is 0.",
                    got="target=0; the other part compares the classes that are not the label, and there is one",
                    hint="method.wkd-l.target=1, or method: kd",
                )
            self.note = "wkd-l: of 2 classes the distance of the other ones (weight) is always 0; target's part is not"
        width = min(self.options.width, teacher.pooled)
        self.register_buffer("kernels", torch.zeros(student.classes, width, width))
        square = torch.randn(teacher.pooled, width, generator=torch.Generator().manual_seed(0))
        rows = torch.eye(width) if width == teacher.pooled else torch.linalg.qr(square)[0].T
        self.register_buffer("projection", rows)
        self.register_buffer("cost", class_costs(self.kernels, self.options.sharpness))

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        o, n = self.options, len(batch.y)
        s, t, pooled = student.logits[:n], teacher.logits[:n], teacher.pooled
        assert pooled is not None
        if self.training and progress <= o.learn_share:
            self.learn(pooled[:n], batch.y)
        distance = wkd_loss(s, t, batch.y, self.cost, o.temperature, o.regularization, o.iterations)
        return {
            "wkd": o.weight * falling(progress, o.falls_from) * distance,
            "target": o.target * target_loss(s, t, batch.y),
        }

    @torch.no_grad()
    def learn(self, features: Tensor, y: Tensor) -> None:
        """The classes of features [N, D] are compared by these too."""
        with in_float32(features):
            centred = features.float() - features.float().mean(1, keepdim=True)
            for x, label in zip((centred @ self.projection.T).split(ROWS), y.split(ROWS)):
                add_rows(self.kernels, label, x[:, :, None] * x[:, None])
            self.cost.copy_(class_costs(self.kernels, self.options.sharpness))
