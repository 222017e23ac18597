"""ShuffleNets for small images: V1 (Zhang et al., CVPR 2018, arXiv:1707.01083) with 3 groups and
V2 (Ma et al., ECCV 2018, arXiv:1807.11164) at width 1.

A 1x1 stem at full resolution takes the place of the strided stem; then three stages at 1/2, 1/4 and 1/8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcompress.models.zoo import zoo


def conv1x1(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)


class ChannelShuffle(nn.Module):
    """Interleaves the channels of ``groups`` groups; plain reshapes, which every exporter knows."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class V1Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, groups: int):
        super().__init__()
        branch = outputs - inputs if stride == 2 else outputs  # a strided block appends its input
        inner = branch // 4
        first_groups = 1 if inputs == 24 else groups
        self.conv1 = conv1x1(inputs, inner, first_groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.shuffle1 = ChannelShuffle(first_groups)
        self.conv2 = depthwise(inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = conv1x1(inner, branch, groups)
        self.bn3 = nn.BatchNorm2d(branch)
        self.shortcut = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle1(self.relu1(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        return self.relu3(x + y if self.shortcut is None else torch.cat([y, self.shortcut(x)], 1))


@zoo.register("shufflenetv1")
class CifarShuffleNetV1(nn.Module):
    """float [N, channels, H, W] -> logits [N, classes]."""

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.conv1 = conv1x1(channels, 24)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(24, 240, 4)
        self.layer2 = self._stage(240, 480, 8)
        self.layer3 = self._stage(480, 960, 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(960, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        rest = (V1Block(outputs, outputs, 1, 3) for _ in range(blocks - 1))
        return nn.Sequential(V1Block(inputs, outputs, 2, 3), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x).flatten(1))


class V2Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv2 = depthwise(half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu2 = nn.ReLU()
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, y = x.chunk(2, dim=1)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(y)))))
        return self.shuffle(torch.cat([kept, self.relu2(self.bn3(self.conv3(y)))], 1))


class V2DownBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        half = outputs // 2
        self.conv1 = depthwise(inputs, 2)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv1x1(inputs, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU()
        self.conv3 = conv1x1(inputs, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu2 = nn.ReLU()
        self.conv4 = depthwise(half, 2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu3 = nn.ReLU()
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = self.relu1(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(self.relu2(self.bn3(self.conv3(x)))))
        return self.shuffle(torch.cat([left, self.relu3(self.bn5(self.conv5(right)))], 1))


@zoo.register("shufflenetv2")
class CifarShuffleNetV2(nn.Module):
    """float [N, channels, H, W] -> logits [N, classes]."""

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.conv1 = conv1x1(channels, 24)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu1 = nn.ReLU()
        self.layer1 = self._stage(24, 116, 4)
        self.layer2 = self._stage(116, 232, 8)
        self.layer3 = self._stage(232, 464, 4)
        self.conv2 = conv1x1(464, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1024, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(V2DownBlock(inputs, outputs), *(V2Block(outputs) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))
