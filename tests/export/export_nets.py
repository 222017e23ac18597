"""Small nets and a small problem that the export tests share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from kdcompress.artifact import InputSpec


class Residual(nn.Module):
    def __init__(self, channels: int, wider: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wider, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.short = nn.Conv2d(channels, wider, 1, 2)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.short(x))


class SmallResNet(nn.Module):
    """Five convolutions, batch norm, a skip, a mean over space."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.body = nn.Sequential(Residual(16, 32), Residual(32, 64))
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        x = self.body(F.relu(self.bn(self.stem(x))))
        return self.fc(x.mean((2, 3)))


class SmallPlain(nn.Module):
    """Depthwise, hard-swish, pooling and a flatten."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 12, 3, 2, 1),
            nn.Hardswish(),
            nn.Conv2d(12, 12, 3, 1, 1, groups=12),
            nn.ReLU6(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Dropout(0.5),
            nn.Linear(12, classes),
        )

    def forward(self, x):
        return self.features(x)


class Normalised(nn.Module):
    """Plain pixels in, logits out."""

    def __init__(self, net: nn.Module, spec: InputSpec):
        super().__init__()
        self.net, self.layout = net, spec.layout
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1))

    def forward(self, x):
        if self.layout == "uint8-nhwc":
            x = x.permute(0, 3, 1, 2).float() / 255
        return self.net((x - self.mean) / self.std).float()


class ThreeHeads(nn.Module):
    """A detector's shapes, of uint8 pixels: scores [N, 3], boxes [N, places, 4] and areas [N, 3]."""

    def __init__(self, spec: InputSpec):
        super().__init__()
        self.normalised = Normalised(nn.Conv2d(spec.channels, 12, 3, 2, 1), spec)
        self.box, self.score, self.area = nn.Conv2d(12, 4, 3, 1, 1), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x):
        x = F.relu(self.normalised(x))
        pooled = x.mean((2, 3))
        boxes = F.relu(self.box(x)).flatten(2).transpose(1, 2)
        return torch.sigmoid(self.score(pooled)), boxes, self.area(pooled)


def labels(count: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(count))


def grey_spec(**changes) -> InputSpec:
    return InputSpec(
        **{"height": 16, "width": 16, "channels": 1, "mean": (0.3,), "std": (0.3,), "labels": labels(4), **changes}
    )


def colour_spec(**changes) -> InputSpec:
    return InputSpec(
        **{
            "height": 16,
            "width": 20,
            "channels": 3,
            "mean": (0.5, 0.4, 0.3),
            "std": (0.2, 0.3, 0.25),
            "labels": labels(5),
            **changes,
        }
    )


def pixels(spec: InputSpec, count: int, seed: int = 0) -> np.ndarray:
    shape = (count, spec.height, spec.width, spec.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def problem(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of four classes: a bright blob in one quarter, on noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    x = rng.integers(0, 90, (count, 16, 16, 1))
    for image, label in zip(x, y, strict=True):
        top, left = 8 * (label // 2) + rng.integers(0, 4), 8 * (label % 2) + rng.integers(0, 4)
        image[top : top + 4, left : left + 4] += rng.integers(50, 160)
    return x.clip(0, 255).astype(np.uint8), y
