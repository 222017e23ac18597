"""What a network costs, whatever runs it: parameters, multiply-accumulates and the values that it holds at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdcompress.models.evaluating import evaluating


def count_parameters(model: nn.Module) -> int:
    """Parameters, trained or not; a shared one counts once. Buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward of ``example`` (the whole batch): convolutions, matrix products and
    attention; activations and normalisations are not counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # detached: without gradients, an expanded parameter (a class token) still asks for one, and the counter fails at it
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    # the counter does not know the CPU's fused attention: have it written out as matrix products
    with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, values, (example,))
    return counter.get_total_flops() // 2


def largest_layer(model: nn.Module, example: Tensor) -> int:
    """Values in and out of the layer that has most of both, in one forward of ``example`` (the whole batch): what any
    runtime holds at once."""
    most = 0

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal most
        most = max(most, sum(t.numel() for t in (*inputs, output) if isinstance(t, Tensor)))

    hooks = [module.register_forward_hook(look) for module in model.modules() if not any(module.children())]
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return most
