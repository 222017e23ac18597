"""The network as it ships: preprocessing inside, plain pixels in, float32 outputs out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.artifact import InputSpec
from kdcompress.errors import UsageError
from kdcompress.models.answers import answer_of, shipped
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
    float32 [N, C, H, W] in 0..1) and returns its outputs, float32 [N, ...] each, a lone one as it is. ``size`` is the
    side of the squares that the network itself takes, where that is not the images'; ``form`` as in
    ``answers.shipped``.

    Raises UsageError for an input of another type or size, and for a network that gives other outputs.
    """

    def __init__(self, net: nn.Module, spec: InputSpec, size: int | None = None, form: str = "logits"):
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
        self.size, self.form = size, form

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        dtype, shape = _expected(self.spec)
        if x.dtype != dtype or tuple(x.shape[1:]) != shape:
            raise UsageError(
                "The input does not fit the deployed model.",
                got=f"{x.dtype} {list(x.shape)}",
                allowed=f"{dtype} [N, {', '.join(map(str, shape))}] ({self.spec.layout})",
            )
        if self.spec.layout == "uint8-nhwc":
            x = x.permute(0, 3, 1, 2)
        outputs = shipped(answer_of(self.net(resized(self.normalize(x), self.size))), self.form)
        shapes = [tuple(output.shape[1:]) for output in outputs]
        if shapes != [output.shape for output in self.spec.outputs]:
            raise UsageError(
                "The network's outputs do not fit the labels.",
                got=", ".join(f"[N, {', '.join(map(str, shape))}]" for shape in shapes),
                allowed=", ".join(f"{out.name} [N, {', '.join(map(str, out.shape))}]" for out in self.spec.outputs),
            )
        return outputs[0] if len(outputs) == 1 else outputs


def example(spec: InputSpec, batch: int = 2) -> Tensor:
    """An input of ``Deployable``: always the same random pixels, ``spec.batch`` of them where that is fixed."""
    dtype, shape = _expected(spec)
    size = (spec.batch or batch, *shape)
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.uint8:
        return torch.randint(0, 256, size, dtype=dtype, generator=generator)
    return torch.rand(size, dtype=dtype, generator=generator)


def _expected(spec: InputSpec) -> tuple[torch.dtype, tuple[int, int, int]]:
    if spec.layout == "uint8-nhwc":
        return torch.uint8, (spec.height, spec.width, spec.channels)
    return torch.float32, (spec.channels, spec.height, spec.width)
