"""What several methods connect networks with: adapters, heads, frozen copies, constants, reversed
gradients, maps of a size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kdcompress.models.copying import copied
from kdcompress.models.taps import Stage


def regressor(channels: int, out: int) -> nn.Sequential:
    """[N, channels, H, W] -> [N, out, H, W]: a 1x1 convolution and a batch norm, with no activation after it, so
    that signed targets can be reached."""
    return nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))


def adapter(channels: int, out: int) -> nn.Module:
    """[N, channels, H, W] -> [N, out, H, W]: nothing where the widths agree, else a 1x1 convolution alone."""
    return nn.Identity() if channels == out else nn.Conv2d(channels, out, 1, bias=False)


def exit_head(stage: Stage, classes: int, width: int = 128) -> nn.Sequential:
    """An early exit at a stage, [N, C, H, W] -> logits [N, classes]: a 3x3 convolution (with stride 2 where the map is
    larger than 4x4), batch norm and ReLU, twice, then global average pooling and a linear layer."""
    stride = 2 if min(stage.height, stage.width) > 4 else 1

    def block(channels: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    layers = [*block(stage.channels, stride), *block(width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def as_buffers(module: nn.Module) -> nn.Module:
    """A copy of a module, its parameters as buffers: in the state, and no optimizer's business."""
    module = copied(module)
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, value.detach())
    return module


def as_constant(module: nn.Module, x: Tensor) -> Tensor:
    """What a module gives for ``x``, its parameters constants: the gradient goes to ``x`` alone."""
    found: Tensor = functional_call(module, {name: value.detach() for name, value in module.named_parameters()}, (x,))
    return found


def in_float32(like: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``like``, for matrix products of float32 tensors."""
    device = like.device.type
    return torch.autocast(device if torch.amp.is_autocast_available(device) else "cpu", enabled=False)


def reversed_gradient(x: Tensor, strength: float) -> Tensor:
    """``x`` itself, whose gradient is ``-strength`` times what arrives."""
    return x.detach() - strength * (x - x.detach())


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps at the smaller of their sizes, the larger one average-pooled."""
    size = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    return tuple(t if t.shape[-2:] == size else F.adaptive_avg_pool2d(t, size) for t in (a, b))  # type: ignore[return-value]
