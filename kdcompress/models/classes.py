"""The order of a network's classes, changed in its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.answers import answer_of, class_logits
from kdcompress.models.evaluating import evaluating


def reorder_classes(net: nn.Module, order: Sequence[int], x: Tensor) -> None:
    """Output k of ``net`` becomes what output ``order[k]`` was: the rows of its last layer change places. ``x``: an
    input of it, to see that they do.

    Raises UsageError, and leaves the network as it was, where no layer's rows are the classes.
    """
    rows = torch.tensor(order)
    before = _logits(net, x)[..., rows]
    layers = [module for module in net.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for layer in reversed([layer for layer in layers if len(layer.weight) == len(order)]):
        parameters = [p for p in (layer.weight, layer.bias) if p is not None]
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old[rows])
            if torch.allclose(_logits(net, x), before, rtol=1e-3, atol=1e-4 * float(before.abs().max())):
                return
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)
    raise UsageError(
        "The weights have the classes in another order than the data, and no layer has one row per class to reorder.",
        hint="name the data's classes so that they come in the order of the weights'",
    )


def _logits(net: nn.Module, x: Tensor) -> Tensor:
    with evaluating(net), torch.no_grad():
        return class_logits(answer_of(net(x))).float()
