"""Learning-rate schedules as pure functions of how far the training is: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from kdcompress.recipe import Train


def lr_scale(train: Train, progress: float) -> float:
    """The factor on the peak learning rate at ``progress`` in [0, 1).

    ``one-cycle`` (Smith and Topin 2018) is a linear rise over ``warmup`` (0.25 where the recipe
    gives none) and a linear fall to zero; the others rise over ``warmup`` and then follow their curve.
    """
    warmup = train.warmup or (0.25 if train.schedule == "one-cycle" else 0.0)
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    rest = (progress - warmup) / (1 - warmup)
    if train.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    if train.schedule == "one-cycle":
        return 1 - rest
    if train.schedule == "multi-step":
        return 0.1 ** sum(progress >= milestone for milestone in train.milestones)
    return 1.0
