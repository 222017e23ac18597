"""Online Knowledge Distillation via Collaborative Learning. Guo et al., CVPR 2020 (KDCL).

Different here: the networks share the batch (in the paper each has its own distorted copy). The convex problem of
``linear`` is solved for each image. The default target is ours.

For ``general`` the paper measures the networks' errors on a validation set once an epoch. Here they are averaged over
the training batches so far. Each batch is measured before the iteration that learns from it, so a target's weights
never come from its own labels. Negative weights are set to 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.methods import methods
from kdcompress.methods.base import Method, MethodOptions, Needs
from kdcompress.methods.fields import loss_weight, softening
from kdcompress.methods.kd import kd_loss
from kdcompress.models.taps import Taps, TapShapes

# Targets: logits [M, N, K] of M networks, float32, and labels [N] -> logits [N, K]; section 3.


def naive_target(logits: Tensor, y: Tensor) -> Tensor:
    """Those of the network with the smallest cross-entropy, image by image (KDCL-Naive)."""
    errors = logits.logsumexp(2) - at(logits, y)
    return logits.take_along_dim(errors.argmin(0)[None, :, None], 0)[0]


def min_logit_target(logits: Tensor, y: Tensor) -> Tensor:
    """The least of the networks' logits relative to that of the true class (KDCL-MinLogit)."""
    return (logits - at(logits, y)[..., None]).amin(0)


def linear_target(logits: Tensor, y: Tensor) -> Tensor:
    """The convex combination with the smallest cross-entropy, image by image (KDCL-Linear), by Newton steps on the
    weights under a barrier that is halved at each (to 1e-5 of the least, where logits are at most 40 apart; where they
    are further, the weights are those for the logits brought to that distance)."""
    apart = (logits - at(logits, y)[..., None]).transpose(0, 1)
    barrier = (apart.amax((1, 2)) - apart.amin((1, 2)))[:, None].clamp_min(1e-6)
    z = apart * (40 / barrier.clamp_min(40))[..., None]
    weights = torch.full_like(z[..., 0], 1 / len(logits))
    for _ in range(24):
        p = (weights[..., None] * z).sum(1, keepdim=True).softmax(2)
        slope = (p * z).sum(2)
        spread = weights[..., None] * (z - slope[..., None])
        curvature = (p[:, None] * spread[:, :, None] * spread[:, None]).sum(3)
        curvature = curvature + torch.diag_embed(barrier.expand_as(weights))
        sides = torch.stack([weights * slope - barrier, weights], dim=2)
        a, b = torch.linalg.solve_ex(curvature, sides)[0].unbind(2)
        step = (weights * a).sum(1, keepdim=True) / (weights * b).sum(1, keepdim=True) * b - a
        step = step * 0.9 / (-step).amax(1, keepdim=True).clamp_min(0.9)  # no weight falls below a tenth of itself
        weights = weights * (1 + step)
        weights = weights / weights.sum(1, keepdim=True)
        barrier = barrier / 2
    return (weights[..., None] * apart).sum(1)


def at(logits: Tensor, y: Tensor) -> Tensor:
    """The logits of the true classes: [M, N, K] -> [M, N]."""
    return logits.gather(2, y[None, :, None].expand(len(logits), -1, 1))[..., 0]


def error_matrix(logits: Tensor, y: Tensor) -> Tensor:
    """How the networks' errors go together, [M, M]: the product of two networks' differences from the one-hot labels,
    probabilities at T = 1, averaged over the batch."""
    errors = logits.softmax(2) - F.one_hot(y, logits.shape[2])
    return (errors[:, None] * errors).sum(3).mean(2)


def error_weights(errors: Tensor) -> Tensor:
    """The weights [M], of sum 1, of the combination with the smallest squared error, C^-1 1 / (1' C^-1 1), with 0 for
    negative ones (KDCL-General). C gets a thousandth of its mean diagonal added, as networks soon err alike."""
    ridge = (1e-3 * errors.diagonal().mean()).clamp_min(1e-12) * torch.eye(len(errors), device=errors.device)
    weights = torch.linalg.solve_ex(errors + ridge, torch.ones_like(errors[0]))[0].clamp_min(0)
    return weights / weights.sum()


TARGETS = {"naive": naive_target, "linear": linear_target, "min_logit": min_logit_target}


@methods.register("kdcl")
class KDCL(Method):
    """The student and its peers learn from one target, made of the logits of all of them and the labels."""

    class Options(MethodOptions):
        weight: float = loss_weight(1.0)
        temperature: float = softening(2.0, logits="logits")
        target: Literal["naive", "linear", "min_logit", "general"] = Field(
            "min_logit",
            description="How one target is made of all networks' logits. naive: those of the best network. "
            "linear: the best mixture for each image. min_logit: the smallest logit of each class. "
            "general: one mixture for all images.",
        )
        momentum: float = Field(
            0.99,
            ge=0,
            lt=1,
            description="For target general: share of the old errors that their running mean keeps at each iteration.",
        )

    family = "online"
    paper = "CVPR 2020"
    needs = Needs(peers="logits", whole_batch=True, one_label=True, truth=True)
    errors: Tensor

    def build(self, student: TapShapes, peers: list[TapShapes]) -> None:
        self.register_buffer("errors", torch.zeros(len(peers) + 1, len(peers) + 1))

    def terms(self, batch: Batch, student: Taps, peers: list[Taps], progress: float) -> dict[str, Tensor]:
        o, labelled = self.options, [member.logits[: len(batch.y)] for member in (student, *peers)]
        with torch.no_grad():
            target = self.target(torch.stack([z.detach().float() for z in labelled]), batch.y)
        losses = [kd_loss(z, target, o.temperature) for z in labelled]
        return {"kdcl": o.weight * torch.stack(losses).sum()}

    def target(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.options.target != "general":
            return TARGETS[self.options.target](logits, y)
        target = (error_weights(self.errors)[:, None, None] * logits).sum(0)
        if self.training:
            self.errors.lerp_(error_matrix(logits, y), 1 - self.options.momentum)
        return target
