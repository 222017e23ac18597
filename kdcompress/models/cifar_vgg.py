"""VGG with batch normalisation for small images: Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556.

Five blocks. At 32x32 the maps are 32, 16, 8, 4 and 4 wide: the fourth pooling is there only for images of 64x64 and up.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from kdcompress.models.zoo import init_weights, zoo


def block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)


class CifarVGG(nn.Module):
    """float [N, channels, H, W] -> logits [N, classes]; every block has the same number of convolutions."""

    def __init__(self, convolutions: int, classes: int, channels: int):
        super().__init__()
        self.block0 = block(channels, 64, convolutions)
        self.pool0 = nn.MaxPool2d(2)
        self.block1 = block(64, 128, convolutions)
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = block(128, 256, convolutions)
        self.pool2 = nn.MaxPool2d(2)
        self.block3 = block(256, 512, convolutions)
        self.pool3 = nn.MaxPool2d(2)
        self.block4 = block(512, 512, convolutions)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, classes)
        init_weights(self)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        large = x.shape[-2] >= 64
        x = self.pool0(self.block0(x))
        x = self.pool1(self.block1(x))
        x = self.pool2(self.block2(x))
        x = self.block3(x)
        if large:
            x = self.pool3(x)
        return self.classifier(self.avgpool(self.block4(x)).flatten(1))


zoo.register("vgg8")(partial(CifarVGG, 1))
zoo.register("vgg13")(partial(CifarVGG, 2))
