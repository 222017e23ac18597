"""A network with more classes, begun as one with fewer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdcompress.errors import UsageError, some


def grow(net: nn.Module, old: Mapping[str, Tensor], classes: int, more: int) -> None:
    """``net``, of ``more`` classes, gets the ``old`` weights of the same network with the first ``classes`` of them.
    What has a row a class keeps its own rows for the new ones. Raises UsageError, and changes nothing, where other
    weights differ in shape too."""
    state = net.state_dict()
    wrong = [name for name, value in state.items() if name not in old or not _fits(value, old[name], classes, more)]
    if wrong or set(old) - set(state):
        raise UsageError(
            "The network cannot get more classes: other weights than those of its classifier change with them.",
            where=type(net).__name__,
            got=some(wrong or sorted(set(old) - set(state))),
            hint="take another network",
        )
    with torch.no_grad():
        for name, value in state.items():
            (value if value.shape == old[name].shape else value[:classes]).copy_(old[name])


def _fits(value: Tensor, old: Tensor, classes: int, more: int) -> bool:
    return value.shape == old.shape or (value.shape[:1], old.shape) == ((more,), (classes, *value.shape[1:]))
