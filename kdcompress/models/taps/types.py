"""What is taken of a network: where, of what shape, and the tensors of one forward."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kdcompress.models.answers import Answer


@dataclass(frozen=True)
class Stage:
    """Where a map is taken and its shape at the example's size; ``reduction`` is input height / map height. ``before``:
    it is what the module at ``path`` is given, not what it gives. ``times``: how often that runs in a forward."""

    path: str
    channels: int
    height: int
    width: int
    reduction: float
    before: bool = False
    times: int = 1

    def __str__(self) -> str:
        return f"{self.path} {self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class TapShapes:
    """What the taps of a network look like: its stages, shallow to deep, the width of the pooled feature (None
    where there is none), the number of classes, the input (channels, height, width) and the last map, where it was
    asked for."""

    stages: tuple[Stage, ...]
    pooled: int | None
    classes: int
    input: tuple[int, int, int]
    last: Stage | None = None
    places: int = 1  # that the network has logits for
    chosen: bool = False  # by the network, image by image
    grid: bool = False  # they are a map's


@dataclass
class Taps:
    """One forward: logits [N, classes] (of a dense answer [N, places, classes], of a network of features [N, 0]), stage
    maps [N, C, H, W] shallow to deep, pooled feature [N, D] or None, and the layer that makes the logits of it
    (nn.Linear or nn.Conv2d 1x1), or None. ``pre`` holds the stage maps before their activation where ``stages`` holds
    those after it and both were asked for, ``last`` [N, C, H, W] the map that is pooled, where it was asked for.
    ``answer`` is what the network returned; None where the others were kept from an earlier forward."""

    logits: Tensor
    stages: list[Tensor]
    pooled: Tensor | None
    classifier: nn.Module | None = None
    pre: list[Tensor] | None = None
    last: Tensor | None = None
    answer: Answer | None = None
