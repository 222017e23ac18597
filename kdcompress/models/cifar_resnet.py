"""ResNets for small images: He et al., CVPR 2016, arXiv:1512.03385, section 4.2; the x4 ones are four times as wide.

Three stages at 1/1, 1/2 and 1/4 of the input's resolution. 1x1-convolution shortcuts, as in the papers on distillation.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kdcompress.models.zoo import init_weights, zoo


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.downsample(x))


class CifarResNet(nn.Module):
    """float [N, channels, H, W] -> logits [N, classes]; ``depth`` is 6n + 2."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], classes: int, channels: int):
        super().__init__()
        blocks = (depth - 2) // 6
        stem, *stages = widths
        self.conv1 = conv3x3(channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(stem, stages[0], blocks, 1)
        self.layer2 = self._stage(stages[0], stages[1], blocks, 2)
        self.layer3 = self._stage(stages[1], stages[2], blocks, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(stages[2], classes)
        init_weights(self)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


for depth in (8, 14, 20, 32, 44, 56, 110):
    zoo.register(f"resnet{depth}")(partial(CifarResNet, depth, (16, 16, 32, 64)))
for depth in (8, 14, 20):  # in between and below the papers' own, for budgets
    zoo.register(f"resnet{depth}x0.5")(partial(CifarResNet, depth, (8, 8, 16, 32)))
    zoo.register(f"resnet{depth}x2")(partial(CifarResNet, depth, (16, 32, 64, 128)))
for depth in (8, 32):
    zoo.register(f"resnet{depth}x4")(partial(CifarResNet, depth, (32, 64, 128, 256)))
