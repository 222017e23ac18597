"""Networks of a moment for pre-trainings: one without a map, and a tower of features. In a recipe:
``model: no_maps:flat``."""

from torch import nn


def flat(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * channels, 8), nn.ReLU(), nn.Linear(8, classes))


def tower(classes, channels):
    assert classes == 0  # a teacher needs no classifier
    return nn.Sequential(nn.Conv2d(channels, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
