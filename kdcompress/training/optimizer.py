"""The optimizer that a recipe asks for."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kdcompress.errors import UsageError
from kdcompress.methods.base import Method
from kdcompress.recipe import Train
from kdcompress.training.dot import DOT


def check_optimizer(train: Train, kinds: Iterable[type[Method]], processes: int) -> None:
    """Raises UsageError where the optimizer cannot train these methods, or in so many processes."""
    if train.optimizer != "dot":
        return
    if all(kind.family == "baseline" for kind in kinds):
        raise UsageError(
            "train.optimizer=dot keeps distillation terms apart from the task's, and the method has none.",
            hint="train.optimizer=sgd, or a method that distils",
        )
    if processes > 1:
        raise UsageError(
            "train.optimizer=dot trains in one process: its two gradients are not averaged over several.",
            got=f"{processes} processes",
            hint="train.optimizer=sgd, or start one process",
        )


def make_optimizer(module: torch.nn.Module, train: Train) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    nesterov = train.nesterov and train.momentum > 0
    if train.optimizer == "dot":
        return DOT(parameters, train.lr, train.momentum, train.dot_delta, train.weight_decay, nesterov)
    return torch.optim.SGD(
        parameters, train.lr, train.momentum, nesterov=nesterov, weight_decay=train.weight_decay, fused=True
    )
