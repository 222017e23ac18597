"""Narrow ResNets for images of about 64 to 320 pixels: classifiers, and backbones of small detectors.

A convolution with stride 2, then four stages of one basic block at 1/4, 1/8, 1/16 and 1/32 of the input's resolution.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kdcompress.models.cifar_resnet import BasicBlock, conv3x3
from kdcompress.models.zoo import init_weights, zoo

WIDTHS = (16, 16, 32, 48)


class SmallResNet(nn.Module):
    """float [N, channels, H, W] -> logits [N, classes]."""

    def __init__(self, width: int, classes: int, channels: int):
        super().__init__()
        first, *others = (width * each for each in WIDTHS)
        self.conv1 = conv3x3(channels, first, 2)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = BasicBlock(first, first, 2)
        self.layer2 = BasicBlock(first, others[0], 2)
        self.layer3 = BasicBlock(others[0], others[1], 2)
        self.layer4 = BasicBlock(others[1], others[2], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(others[2], classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


for width in (1, 2, 4):
    zoo.register(f"small-resnet10x{width}")(partial(SmallResNet, width))
