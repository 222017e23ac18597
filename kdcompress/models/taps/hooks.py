"""Hooks that take tensors while a network runs: one frame a forward."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcompress.models.taps.maps import Layout, as_map, first_tensor


@dataclass(frozen=True)
class Point:
    """A tensor in a forward: the ``index``-th call of the module at ``path``, its first input or its output."""

    path: str
    index: int
    before: bool
    copy: bool  # overwritten in place later in the forward


@dataclass(frozen=True)
class Tap:
    """A point at which there is a map."""

    point: Point
    layout: Layout
    grid: tuple[float, float]  # map height and width as shares of the input's

    def read(self, tensor: Tensor, x: Tensor) -> Tensor:
        """The map [N, C, H, W] in the tensor taken, for the input ``x``."""
        height, width = round(self.grid[0] * x.shape[2]), round(self.grid[1] * x.shape[3])
        return as_map(tensor, self.layout, height, width)


class Frame:
    """What the hooks of one Tapped took in the forward that runs now. Holds no tensor between forwards, and no
    reference to the model, so that the model can be copied and pickled with its hooks."""

    def __init__(self) -> None:
        self.active = False
        self.calls: Counter[tuple[str, bool]] = Counter()
        self.tensors: dict[Point, tuple[Tensor, int | None]] = {}

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False
        self.calls.clear()
        self.tensors.clear()

    def take(self, point: Point, tensor: Tensor) -> None:
        kept = tensor.clone() if point.copy else tensor
        self.tensors[point] = kept, _version(kept)

    def taken(self, point: Point) -> Tensor:
        if point not in self.tensors:
            raise RuntimeError(
                f"the tap at {point.path!r} was not reached: it was closed, its module was replaced, or the forward "
                "took another way than with the example"
            )
        tensor, version = self.tensors[point]
        if _version(tensor) != version:
            raise RuntimeError(f"the tap at {point.path!r} was overwritten in place after it was taken")
        return tensor


class Hook:
    def __init__(self, frame: Frame, path: str, before: bool, points: dict[int, Point]):
        self.frame, self.path, self.before, self.points = frame, path, before, points

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        frame = self.frame
        if not frame.active:
            return
        key = self.path, self.before
        point = self.points.get(frame.calls[key])
        frame.calls[key] += 1
        if point is not None:
            tensor = first_tensor(args if self.before else output)
            if tensor is not None:
                frame.take(point, tensor)


def _version(tensor: Tensor) -> int | None:
    """The count of in-place writes; inference tensors keep none."""
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version
