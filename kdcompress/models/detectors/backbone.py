"""A network's maps at the resolutions that a detector looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from kdcompress.errors import UsageError
from kdcompress.models.taps.choosing import chosen
from kdcompress.models.taps.dry_run import watched
from kdcompress.models.taps.places import stage_at

SIDE = 128  # of the images that a network is looked at with


class Backbone(nn.Module):
    """float [N, C, H, W] -> maps shallow to deep, of ``channels`` each and at 1 / ``reductions`` of the image's
    resolution: those of ``body``, which gives a list of maps, that are asked for."""

    def __init__(self, body: nn.Module, channels: Sequence[int], reductions: Sequence[int]):
        super().__init__()
        self.body, self.channels, self.reductions = body, tuple(channels), tuple(reductions)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        return list(maps.values()) if isinstance(maps, dict) else list(maps)[-len(self.channels) :]


def of_timm(body: nn.Module, finest: int) -> Backbone:
    """Of a timm network that was made with ``features_only``."""
    info = body.feature_info
    every = list(zip(info.channels(), info.reduction(), strict=True))  # type: ignore[operator, union-attr]
    return _from(body, [(channels, round(reduction)) for channels, reduction in every], finest)


def of_classifier(net: nn.Module, channels: int, finest: int) -> Backbone:
    """Of any classifier whose stages are found, without what lies behind the deepest."""
    run = watched(net, torch.rand(2, channels, SIDE, SIDE))
    stages = {}
    for call in chosen(run).stages:
        stage = stage_at(run, call)
        stages[round(stage.reduction)] = stage  # the deepest of each resolution
    found = [(stage.channels, reduction) for reduction, stage in sorted(stages.items()) if reduction >= finest]
    if not found:
        raise _too_fine(net, list(stages), finest)
    paths = {stages[reduction].path: str(reduction) for _, reduction in found}
    try:
        body = create_feature_extractor(net, return_nodes=paths)
    except Exception as error:  # of any kind, from a network that cannot be traced
        raise UsageError(
            f"{type(net).__name__} cannot be taken apart into a backbone.",
            got=f"{type(error).__name__}: {' '.join(str(error).split()):.200}",
            hint="take a network of the zoo, of torchvision or of timm (timm/NAME)",
        ) from error
    return _from(body, found, finest)


def _from(body: nn.Module, every: Sequence[tuple[int, int]], finest: int) -> Backbone:
    used = [(channels, reduction) for channels, reduction in every if reduction >= finest]
    if not used:
        raise _too_fine(body, [reduction for _, reduction in every], finest)
    return Backbone(body, *zip(*used, strict=True))


def _too_fine(net: nn.Module, reductions: Sequence[int], finest: int) -> UsageError:
    return UsageError(
        f"{type(net).__name__} has no map that is coarse enough for this head.",
        got=", ".join(f"1/{each}" for each in sorted(reductions)) or "no map",
        allowed=f"1/{finest} of the image's side or less",
        hint="set options.finest, or take a backbone for larger images, such as timm/resnet18",
    )
