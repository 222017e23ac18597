"""Wide residual networks: Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146.

Pre-activation blocks: the output of a stage is a signed sum, before the next batch normalisation and ReLU.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kdcompress.models.zoo import init_weights, zoo


class PreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        # named as in the published checkpoints
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(self.relu2(self.bn2(self.conv1(y))))


class Group(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int):
        super().__init__()
        rest = (PreActBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(PreActBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """float [N, channels, H, W] -> logits [N, classes]; ``depth`` is 6n + 4. No dropout."""

    def __init__(self, depth: int, widen: int, classes: int, channels: int):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.block1 = Group(16, 16 * widen, blocks, 1)
        self.block2 = Group(16 * widen, 32 * widen, blocks, 2)
        self.block3 = Group(32 * widen, 64 * widen, blocks, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * widen, classes)
        init_weights(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))


for depth, widen in ((10, 1), (10, 2), (16, 1), (16, 2), (16, 4), (28, 2), (40, 1), (40, 2)):
    zoo.register(f"wrn_{depth}_{widen}")(partial(WideResNet, depth, widen))
