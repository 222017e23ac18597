"""Networks inside what runs them: torch.compile's modules, DataParallel and DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")
COMPILED = "_orig_mod"  # under which torch.compile's modules hold the one that they compile


def bare(net: nn.Module) -> nn.Module:
    """The network itself: without what it is wrapped in."""
    return _layers(net)[-1]


def bare_inside(net: nn.Module) -> nn.Module:
    """``bare``, and the same of every module inside, in place; nor is any compiled in place any more."""
    net = bare(net)
    if net._compiled_call_impl is not None:
        net._compiled_call_impl = None
    for name, child in net._modules.items():
        if child is not None and (inner := bare_inside(child)) is not child:
            net._modules[name] = inner
    return net


def bare_and_whole(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    """``bare_inside``, and what runs it so that its gradients are averaged over the processes: the
    DistributedDataParallel that it is in, left around it alone; else the network itself."""
    parallel: Any = next((layer for layer in _layers(net) if isinstance(layer, DistributedDataParallel)), None)
    net = bare_inside(net)
    if parallel is None:
        return net, net
    parallel.module = net
    return net, parallel


def bare_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict with the names that it has where nothing in the network is compiled."""
    return {".".join(part for part in name.split(".") if part != COMPILED): value for name, value in state.items()}


def _layers(net: nn.Module) -> list[nn.Module]:
    """The wrappers, outermost first, and the network itself last."""
    layers = [net]
    while (inner := _inside(layers[-1])) is not None:
        layers.append(inner)
    return layers


def _inside(net: Any) -> nn.Module | None:
    if COMPILED in net._modules:  # TorchScript's modules have no `get`
        return net._modules[COMPILED]
    return net.module if isinstance(net, (nn.DataParallel, DistributedDataParallel)) else None
