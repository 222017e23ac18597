"""Feature Pyramid Networks for Object Detection. Lin et al., CVPR 2017, arXiv:1612.03144: maps of one width at several
resolutions, the coarse ones added to the finer.

Its convolutions have batch norms, which fold into them when it ships.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdcompress.errors import UsageError
from kdcompress.models.detectors.backbone import Backbone


def conv_norm(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Pyramid(nn.Module):
    """float [N, C, H, W] -> ``levels`` maps [N, width, h, w], fine to coarse, at 1 / ``strides`` of the image's
    resolution: those of the backbone, and further ones by convolutions with stride 2, as in RetinaNet.

    Raises UsageError for fewer levels than the backbone has maps: its deepest layers would learn nothing."""

    def __init__(self, backbone: Backbone, width: int, levels: int):
        super().__init__()
        self.backbone = backbone
        count = len(backbone.channels)
        if levels < count:
            what = "The pyramid has fewer levels than its backbone has maps."
            maps = ", ".join(f"1/{each}" for each in backbone.reductions)
            raise UsageError(what, where="options.levels", got=levels, allowed=f"{count} or more: maps of {maps}")
        self.lateral = nn.ModuleList(conv_norm(channels, width, 1) for channels in backbone.channels)
        self.out = nn.ModuleList(conv_norm(width, width, 3) for _ in range(count))
        self.further = nn.ModuleList(conv_norm(width, width, 3, stride=2) for _ in range(levels - count))
        self.strides = list(backbone.reductions)
        for _ in self.further:
            self.strides.append(2 * self.strides[-1])

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the modules that give the levels."""
        return (*(f"out.{i}" for i in range(len(self.out))), *(f"further.{i}" for i in range(len(self.further))))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.backbone(x)
        inner = [lateral(map) for lateral, map in zip(self.lateral, maps)]
        for i in range(len(inner) - 2, -1, -1):
            inner[i] = inner[i] + F.interpolate(inner[i + 1], size=inner[i].shape[-2:], mode="nearest")
        levels = [out(map) for out, map in zip(self.out, inner)]
        for further in self.further:
            levels.append(further(levels[-1].relu()))
        return levels


class OnPyramid(nn.Module):
    """A detector that looks at the levels of a pyramid."""

    def __init__(self, pyramid: Pyramid):
        super().__init__()
        self.pyramid = pyramid

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """Of the modules whose maps methods on features compare: the pyramid's levels."""
        return tuple(f"pyramid.{path}" for path in self.pyramid.paths)
