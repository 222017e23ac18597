"""The network as it ships: preprocessing inside, plain pixels in, float32 logits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.artifact import InputSpec
from kdcompress.errors import UsageError
from kdcompress.models.wrapped import bare_inside


class Normalize(nn.Module):
    """Pixels [N, C, H, W], uint8 in 0..255 or floating point in 0..1 -> float32 (x - mean) / std, channel by channel.

    Raises UsageError where mean and std differ in length or a std is not positive.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != len(std) or min(std, default=0.0) <= 0:
            raise UsageError(
                "The normalisation is not valid.",
                got=f"mean {list(mean)}, std {list(std)}",
                allowed="one mean and one positive std per channel",
            )
        scale = 1 / torch.tensor(std, dtype=torch.float64)
        bias = -torch.tensor(mean, dtype=torch.float64) * scale
        self.register_buffer("scale", scale.float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("bias", bias.float().view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale / 255 if x.dtype == torch.uint8 else self.scale
        return x.float() * scale + self.bias


def resized(x: Tensor, size: int | None) -> Tensor:
    """[N, C, H, W] as squares of ``size`` pixels a side, bilinear; as they are where size is None."""
    if size is None or x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", antialias=size < x.shape[-1])


class Deployable(nn.Module):
    """``net`` with its preprocessing, for export: takes what ``spec.layout`` says (uint8 [N, H, W, C] or
    float32 [N, C, H, W] in 0..1) and returns float32 logits [N, classes]. ``size`` is the side of the squares
    that the network itself takes, where that is not the images'.

    Raises UsageError for an input of another type or size, and for a network with another number of classes.
    """

    def __init__(self, net: nn.Module, spec: InputSpec, size: int | None = None):
        super().__init__()
        if len(spec.mean) != spec.channels:
            raise UsageError(
                "The normalisation does not fit the input.",
                got=f"{len(spec.mean)} means",
                allowed=f"{spec.channels}, one per channel",
            )
        self.normalize = Normalize(spec.mean, spec.std)
        self.net = bare_inside(net)
        self.spec = spec
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        dtype, shape = _expected(self.spec)
        if x.dtype != dtype or tuple(x.shape[1:]) != shape:
            raise UsageError(
                "The input does not fit the deployed model.",
                got=f"{x.dtype} {list(x.shape)}",
                allowed=f"{dtype} [N, {', '.join(map(str, shape))}] ({self.spec.layout})",
            )
        if self.spec.layout == "uint8-nhwc":
            x = x.permute(0, 3, 1, 2)
        logits = logits_of(self.net(resized(self.normalize(x), self.size)))
        if logits.shape[1] != self.spec.classes:
            raise UsageError(
                "The network does not give one logit per label.",
                got=f"{logits.shape[1]} logits",
                allowed=f"{self.spec.classes}, one per label",
            )
        return logits.float()


def example(spec: InputSpec, batch: int = 2) -> Tensor:
    """An input of ``Deployable``: always the same random pixels, ``spec.batch`` of them where that is fixed."""
    dtype, shape = _expected(spec)
    size = (spec.batch or batch, *shape)
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.uint8:
        return torch.randint(0, 256, size, dtype=dtype, generator=generator)
    return torch.rand(size, dtype=dtype, generator=generator)


def outputs_of(answer: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a deployable module returned, in the order of ``InputSpec.outputs``: a lone output may be returned as it
    is."""
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def logits_of(output: Any) -> Tensor:
    """The logits [N, classes] in what a network returned: the tensor itself, ``output.logits``,
    ``output["logits"]`` or the first of a tuple (auxiliary and distillation heads come after it).

    Raises UsageError where there is no such tensor.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if isinstance(found, Tensor) and found.ndim == 2:
        return found
    raise UsageError(
        "The network's output holds no logits.",
        got=_described(output),
        allowed="a tensor [N, classes], one under `logits`, or a tuple that starts with one",
    )


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return "a mapping of " + ", ".join(f"{key}: {_described(item)}" for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of " + ", ".join(_described(item) for item in value)
    return type(value).__name__


def _expected(spec: InputSpec) -> tuple[torch.dtype, tuple[int, int, int]]:
    if spec.layout == "uint8-nhwc":
        return torch.uint8, (spec.height, spec.width, spec.channels)
    return torch.float32, (spec.channels, spec.height, spec.width)
