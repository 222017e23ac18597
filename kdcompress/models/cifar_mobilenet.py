"""MobileNetV2 at half width for small images: Sandler et al., CVPR 2018, arXiv:1801.04381.

The form of the distillation papers: expansion 6, a first stride of 2 and three later ones (16, 8, 4 and 2 wide at
32x32), ReLU in place of ReLU6. Stage outputs are linear bottlenecks, so they are signed.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdcompress.models.zoo import init_weights, zoo

# expansion, channels at full width, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


@zoo.register("mobilenetv2")
class CifarMobileNetV2(nn.Module):
    """float [N, channels, H, W] -> logits [N, classes]."""

    def __init__(self, classes: int, channels: int):
        super().__init__()
        width = 16
        self.conv1 = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages = []
        for expansion, full_width, blocks, stride in STAGES:
            stage = []
            for index in range(blocks):
                stage.append(InvertedResidual(width, full_width // 2, stride if index == 0 else 1, expansion))
                width = full_width // 2
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        self.conv2 = nn.Sequential(nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        linear = nn.Linear(1280, classes)
        self.classifier = nn.Sequential(linear)
        init_weights(self)
        nn.init.normal_(linear.weight, 0.0, 0.01)
        nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.conv1(x)))
        return self.classifier(self.avgpool(x).flatten(1))
