"""A network of a moment: two convolutions, so that checking and exporting it takes no time. In a recipe:
``model: tiny_nets:plain``."""

from torch import nn


def plain(classes, channels):
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)),
    )
