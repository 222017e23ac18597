"""A copy of a network, whatever its forward has left on it."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdcompress.errors import told

Net = TypeVar("Net", bound=nn.Module)
TORCHS_OWN = set(vars(nn.Module()))  # parameters, submodules, hooks


def copied(net: Net) -> Net:
    """A copy that shares nothing with ``net`` that is trained. Tensors with a gradient history are detached in it: what
    a forward or a hook keeps, and the weight that an old-style weight norm computes anew at each forward. Attributes
    that Python cannot copy, such as locks and open files, are shared.

    Raises UsageError where a module refuses to be copied.
    """
    memo: dict[int, Any] = {}
    with _Detached():
        try:
            return copy.deepcopy(net)
        except Exception:
            for module in reversed(list(net.modules())):
                for name, value in vars(module).items():
                    if name not in TORCHS_OWN and not _can_be_copied(value, memo):
                        memo[id(value)] = value
        with told(f"The network {type(net).__name__} cannot be copied.", hint="keep on its modules what can be copied"):
            return copy.deepcopy(net, memo)


def _can_be_copied(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
        return True
    except Exception:  # of any kind: it is the object's own code
        return isinstance(value, (nn.Module, Tensor))  # never shared


class _Detached(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            args = (args[0].detach(), *args[1:])
        return func(*args, **(kwargs or {}))
