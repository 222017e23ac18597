"""Networks inside what runs them: torch.compile's modules, DataParallel and DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

Value = TypeVar("Value")
COMPILED = "_orig_mod"  # under which torch.compile's modules hold the one that they compile


def bare(net: nn.Module, keep: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """The network itself: without what it is wrapped in, as far as one of the classes in ``keep``."""
    inner: Any = net
    while not isinstance(inner, keep):
        if COMPILED in inner._modules:
            inner = inner._modules[COMPILED]
        elif isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = inner.module
        else:
            break
    return inner


def bare_inside(net: nn.Module) -> nn.Module:
    """``bare``, and the same of every module inside, in place; nor is any compiled in place any more."""
    net = bare(net)
    if net._compiled_call_impl is not None:
        net._compiled_call_impl = None
    for name, child in net._modules.items():
        if child is not None and (inner := bare_inside(child)) is not child:
            net._modules[name] = inner
    return net


def bare_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict with the names that it has where nothing in the network is compiled."""
    return {".".join(part for part in name.split(".") if part != COMPILED): value for name, value in state.items()}
