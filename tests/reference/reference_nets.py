"""Small networks of different kinds, whose trained weights lie beside this file. They stay as they are: another network
would need another record. In a recipe: ``model: reference_nets:residual``."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def normed(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions and a shortcut, by a convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = normed(inputs, outputs, 3, stride)
        self.second = normed(outputs, outputs)
        self.short = normed(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.short(x))


class Excited(nn.Module):
    """Channels are weighted by what their means say (squeeze and excitation)."""

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(means))))


class Inverted(nn.Module):
    """As in MobileNetV3: wide in its middle, depthwise, squeeze and excitation, hard-swish."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        wide = 3 * inputs
        self.body = nn.Sequential(
            *(normed(inputs, wide, 1), nn.Hardswish()),
            *(normed(wide, wide, kernel, stride, groups=wide), nn.Hardswish(), Excited(wide)),
            normed(wide, outputs, 1),
        )
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


class Attention(nn.Module):
    """A transformer's block: attention among places, then two layers at each place."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # [N, places, width]
        _, places, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(-1, places, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(seen.transpose(1, 2).reshape(-1, places, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Places(nn.Module):
    """Maps [N, width, side, side] as rows of places, each with a learnt part that says where it is."""

    def __init__(self, width: int, side: int):
        super().__init__()
        self.where = nn.Parameter(0.02 * torch.randn(side * side, width))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2) + self.where


class Mean(nn.Module):
    """Of rows [N, places, width]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def pooled(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def residual(classes: int, channels: int) -> nn.Module:
    stem = [normed(channels, 8), nn.ReLU()]
    return nn.Sequential(*stem, Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 32, 2), *pooled(32, classes))


def mobile(classes: int, channels: int) -> nn.Module:
    stem = [normed(channels, 12, 3, 2), nn.Hardswish()]
    blocks = [Inverted(12, 12, 3, 1), Inverted(12, 24, 5, 2), Inverted(24, 24, 3, 1), Inverted(24, 32, 3, 2)]
    return nn.Sequential(*stem, *blocks, *pooled(32, classes))


def attention(classes: int, channels: int) -> nn.Module:
    """For images of 28 x 28."""
    stem = [normed(channels, 16, 3, 2), nn.GELU(), normed(16, 32, 3, 2), nn.GELU()]
    return nn.Sequential(
        *stem, Places(32, 7), Attention(32, 2), Attention(32, 2), nn.LayerNorm(32), Mean(), nn.Linear(32, classes)
    )


def backbone(classes: int, channels: int) -> nn.Module:
    """Of the detector: maps of 1/4 and 1/8 of the image's side."""
    stem = [normed(channels, 8, 3, 2), nn.ReLU()]
    return nn.Sequential(*stem, Residual(8, 16, 2), Residual(16, 24, 2), *pooled(24, classes))
