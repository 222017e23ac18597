"""Networks of the tests of the taps, and short ways to look at them."""

import torch
import torch.nn.functional as F
from torch import nn

from kdcompress.models.build import build
from kdcompress.models.taps import Tapped
from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.rule import by_rule


def tapped(name, size=32, **kwargs):
    model = build(name, classes=11, channels=3)
    return model, Tapped(model, torch.randn(2, 3, size, size), **kwargs)


def paths(tapped):
    return [stage.path for stage in tapped.shapes.stages]


def maps(tapped):
    return [(stage.channels, stage.height) for stage in tapped.shapes.stages]


class Block(nn.Module):
    """Returns its tokens and the attention, as the blocks of many libraries do."""

    def __init__(self, dim):
        super().__init__()
        self.mix = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        mixed, attention = self.mix(x, x, x)
        x = x + mixed
        return x + self.mlp(x), attention


class Tokens(nn.Module):
    """A plain transformer with a class token."""

    def __init__(self, depth=7, dim=8):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 11)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x)[:, 0])


class Residual(nn.Module):
    """Two convolutions; ``bundle`` is what it returns of its map, where that is not the map alone."""

    def __init__(self, inputs, outputs, stride=1, bundle=None):
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.bundle = bundle

    def forward(self, x):
        x = x[0] if isinstance(x, list) else x
        x = self.two(F.relu(self.one(x)))
        return x if self.bundle is None else self.bundle(x)


class Staged(nn.Module):
    """Stages in a container, at half the resolution each, and what else a test wants around them."""

    def __init__(self, before=None, bundle=None, after=None):
        super().__init__()
        self.before = before or nn.Conv2d(3, 4, 3, 1, 1)
        self.stages = nn.ModuleList(Residual(4 * 2**i, 8 * 2**i, 2, bundle) for i in range(3))
        self.after = after or nn.Identity()
        self.head = nn.LazyLinear(11)

    def forward(self, x):
        x = self.before(x)
        for stage in self.stages:
            x = stage(x)
        x = self.after(x[0] if isinstance(x, list) else x)
        return self.head(x.mean((2, 3)))


def found(model, size=32):
    x = torch.randn(2, 3, size, size)
    model(x)  # lazy layers get their shape
    return [call.path for call in by_rule(DryRun(model, x).calls).stages]


def flat():
    """Layers in a row with in-place activations, as torchvision's VGGs are."""
    layers = []
    for inputs, outputs in ((3, 6), (6, 8), (8, 10)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(490, 11))
