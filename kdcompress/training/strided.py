"""Strided 1x1 convolutions of few channels, kept from a fault of the CPU's kernels.

oneDNN's gradient of their weights, channels last, writes past its workspace where there are fewer in-channels than a
block of its kernel has (AVX2: 8, AVX-512: 16): other memory is damaged, the process dies, hangs or goes on with wrong
gradients. Which layers, where it was seen and the smallest reproduction: docs/onednn-crash.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

BLOCK = 16  # in-channels: the largest block of any of these kernels


def is_affected(layer: nn.Module) -> bool:
    """Whether the gradient of this layer's weight may be computed by such a kernel, whatever the size of its input."""
    return (
        isinstance(layer, nn.Conv2d)
        and set(layer.kernel_size) == {1}
        and set(layer.stride) != {1}
        and layer.padding in ((0, 0), "valid")
        and layer.groups == 1
        and layer.in_channels < BLOCK
    )


def subsample_first(module: nn.Module) -> list[RemovableHandle]:
    """Has every such layer of ``module`` take the pixels that its stride leaves and go over them with a stride of 1,
    when it is trained on a CPU: the same values, by other kernels. Other layers and all forwards without gradients are
    left as they are. Gives the hooks, to be removed."""
    handles: list[RemovableHandle] = []
    for layer in module.modules():
        if is_affected(layer):
            hook = _Subsample(layer.stride)  # type: ignore[arg-type]
            handles.append(layer.register_forward_pre_hook(hook.before))
            handles.append(layer.register_forward_hook(hook.after, always_call=True))
    return handles


class _Subsample:
    def __init__(self, stride: tuple[int, int]):
        self.stride = stride

    def before(self, layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not inputs or inputs[0].device.type != "cpu" or not torch.is_grad_enabled():
            return None
        layer.stride = (1, 1)
        return inputs[0][..., :: self.stride[0], :: self.stride[1]], *inputs[1:]

    def after(self, layer: Any, inputs: Any, output: Any) -> None:
        layer.stride = self.stride
