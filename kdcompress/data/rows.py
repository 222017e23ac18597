"""Changes that only some images of a batch get."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE = 2**20  # pixels: what is computed of them stays in the cache of a CPU


def changed(images: Tensor, wanted: Tensor, number: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``images`` with ``change(images, number)`` in place of those that are ``wanted``, bool [B]. On a CPU no other is
    computed, and ``images`` is written to; elsewhere all are, as which ones they are is not known without a wait."""
    if images.device.type != "cpu":
        return torch.where(wanted.view(-1, 1, 1, 1), change(images, number), images)
    if len(rows := wanted.nonzero()[:, 0]):
        for part in rows.split(max(1, AT_ONCE // images[0].numel())):
            images[part] = change(images[part], number[part])
    return images


class OnDevice:
    """Tables of numbers, once on each device that asks."""

    def __init__(self, *tables: Tensor):
        self._there: dict[torch.device, tuple[Tensor, ...]] = {torch.device("cpu"): tables}

    def __call__(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._there:
            self._there[device] = tuple(t.to(device) for t in self._there[torch.device("cpu")])
        return self._there[device]
