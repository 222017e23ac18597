"""VkD: Improving Knowledge Distillation using Orthogonal Projections. Miles, Elezi and Deng, CVPR 2024,
arXiv:2403.06213.

The projector is a matrix with orthonormal columns (rows, where the student is the wider one), so that it cannot learn
what the student should: angles and lengths of the student's features are those of the projected ones. The teacher's
features are standardised, or whitened.

Different here: the teacher's mean and covariance are those of all images seen so far, not of the batch alone. So the
targets do not depend on the batch's size, and a batch smaller than the feature is wide can be whitened (by its own
covariance all of its images would be equally far from each other). The pooled features are compared. The projector is
made by the Cayley transform of a skew-symmetric matrix, in place of its exponential: that takes a quarter of the time.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.connect import in_float32
from kdcompress.methods.fields import loss_weight
from kdcompress.methods.relations import pooled, pooled_widths
from kdcompress.models.taps import Taps, TapShapes

RIDGE = 1e-3  # of the mean variance, added to each: a covariance in float32 has no inverse else


class Moments(nn.Module):
    """The mean [D] and the covariance [D, D] of all features seen, float32."""

    count: Tensor
    mean: Tensor
    covariance: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("covariance", torch.zeros(width, width))

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """The rows of x [N, D] are seen."""
        mean = x.float().mean(0)
        centred, away = x.float() - mean, mean - self.mean
        self.count += len(x)
        share = len(x) / self.count  # of these rows in all
        self.covariance.lerp_(centred.T @ centred / len(x) + (1 - share) * torch.outer(away, away), share)
        self.mean.lerp_(mean, share)


def standardized(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Features [N, D] with mean 0 and variance 1 of each channel, float32; a channel of no variance is 0."""
    variance = covariance.diagonal()
    return (x.float() - mean) * torch.where(variance > 0, variance, torch.inf).rsqrt()


def whitened(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Features [N, D] with mean 0 and, but for ``RIDGE``, the identity as covariance, float32: L^-1 (x - mean), where
    L L^T is the covariance. Any other square root is a rotation of this one, which the projector makes up for."""
    ridge = RIDGE * covariance.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    root = torch.linalg.cholesky_ex(covariance + ridge * torch.eye(len(mean), device=mean.device))[0]
    return torch.linalg.solve_triangular(root, (x.float() - mean).T, upper=False).T


def vkd_loss(student: Tensor, projection: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the projected features, ``student`` [N, D] times ``projection`` [E, D] transposed, and
    ``target`` [N, E]: a float32 scalar, averaged over all elements."""
    with in_float32(student):
        return F.mse_loss(student.float() @ projection.T, target)


@methods.register("vkd")
class VkD(Method):
    """The student's pooled feature, turned but not reshaped, learns the teacher's, standardised or whitened."""

    class Options(MethodOptions):
        weight: float = loss_weight(1.0)
        normalize: Literal["standardize", "whiten"] = Field(
            "standardize",
            description="What is done to the teacher's features: each channel gets mean 0 and variance 1, or all "
            "of them also become uncorrelated. The paper standardises for classification and detection, and whitens "
            "for the generation of images.",
        )

    family = "feature"
    paper = "arXiv:2403.06213"
    needs = Needs(student="logits+pooled", teacher="pooled", whole_batch=True)

    def build(self, student: TapShapes, teacher: TapShapes) -> None:
        width, out = pooled_widths(student, teacher)
        self.project: Any = orthogonal(nn.Linear(width, out, bias=False), orthogonal_map="cayley")
        self.moments = Moments(out)

    def terms(self, batch: Batch, student: Taps, teacher: Taps, progress: float) -> dict[str, Tensor]:
        s, t = pooled(student, teacher)
        normalized = {"standardize": standardized, "whiten": whitened}[self.options.normalize]
        with in_float32(s):
            if self.training:
                self.moments.learn(t)
            target = normalized(t, self.moments.mean, self.moments.covariance)
            return {"vkd": self.options.weight * vkd_loss(s, self.project.weight, target)}
