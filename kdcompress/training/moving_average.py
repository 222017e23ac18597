"""The exponential moving average of a network's weights: what is validated and ships where a training keeps one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """Exponential moving average of a network's weights and float buffers. It warms up, so that the untrained weights
    it begins with do not stay in it."""

    def __init__(self, net: nn.Module, decay: float):
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """After the step of that number, from 1."""
        share = 1 - min(self.decay, warm_decay(step))
        for name, value in net.state_dict().items():
            mine = self.state[name]
            mine.lerp_(value, share) if mine.is_floating_point() else mine.copy_(value)

    @contextmanager
    def lent_to(self, net: nn.Module) -> Iterator[None]:
        """Inside, ``net`` has the average's weights; its own are put back at the end."""
        own = {k: v.detach().clone() for k, v in net.state_dict().items()}
        net.load_state_dict(self.state)
        try:
            yield
        finally:
            net.load_state_dict(own)


def warm_decay(step: int) -> float:
    """The largest decay at the step of that number, from 1, where it is 0: timm's ``ModelEmaV3`` with its warm-up."""
    return 1 - step ** (-2 / 3)


def unreached(decay: float, steps: int) -> str | None:
    """What is to be told of a decay that the warm-up does not reach in so many steps."""
    if warm_decay(steps) >= decay:
        return None
    after = math.ceil(round((1 - decay) ** -1.5, 3))
    return f"train.ema={decay} is reached after {after:,} iterations; of {steps:,} the last has {warm_decay(steps):.4f}"
