"""How a tensor is a map: [N, C, H, W], [N, H, W, C], or the tokens [N, T, C] of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

MOST_PREFIX_TOKENS = 8
Layout = Literal["nchw", "nhwc", "tokens"]


@dataclass(frozen=True)
class MapShape:
    """How a tensor is a map, and the map's shape."""

    layout: Layout
    channels: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def places(self) -> int:
        return self.height * self.width

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor as [N, C, H, W]."""
        return as_map(tensor, self.layout, self.height, self.width)


def map_shape(shape: Sequence[int], image: tuple[int, int], grids: Sequence[tuple[int, int]] = ()) -> MapShape | None:
    """How a tensor of this shape is a map of an image (height, width); None where it is none.

    ``grids``: heights and widths of the maps before it, the latest last. Tokens are those of one of them.
    """
    if len(shape) == 4:
        _, a, b, c = shape
        if _is_grid(b, c, image):
            return MapShape("nchw", a, b, c)
        if _is_grid(a, b, image):
            return MapShape("nhwc", c, a, b)
    if len(shape) == 3 and (grid := _grid_of_tokens(shape[1], image, grids)):
        return MapShape("tokens", shape[2], *grid)
    return None


def _is_grid(height: int, width: int, image: tuple[int, int]) -> bool:
    """Whether a map of the image can be this high and wide: the image's shape, to within a pixel."""
    fits = height <= image[0] and width <= image[1]
    return fits and abs(height * image[1] / image[0] - width) <= max(1, image[1] / image[0])


def _grid_of_tokens(tokens: int, image: tuple[int, int], grids: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Some tokens ahead of them aside, those of a map before, of half of one, or of patches that no convolution cut."""
    for height, width in reversed(grids):
        if _covers(tokens, height, width):
            return height, width
    for height, width in reversed(grids):
        half = (height + 1) // 2, (width + 1) // 2
        if 1 < half[0] * half[1] == tokens:
            return half
    for side in range(1, min(image) // 2 + 1):  # of square patches
        height, width = image[0] // side, image[1] // side
        if image[0] % side == image[1] % side == 0 and _covers(tokens, height, width):
            return height, width
    return None


def _covers(tokens: int, height: int, width: int) -> bool:
    return 1 < height * width <= tokens <= height * width + MOST_PREFIX_TOKENS


def as_map(tensor: Tensor, layout: Layout, height: int, width: int) -> Tensor:
    """[N, C, H, W] of a map or of tokens; views where possible."""
    if layout == "nchw":
        return tensor
    if layout == "nhwc":
        return tensor.permute(0, 3, 1, 2)
    prefix = tensor.shape[1] - height * width  # class and register tokens come first
    return tensor[:, prefix:].transpose(1, 2).unflatten(2, (height, width))


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the one that a tuple or list starts with (attention blocks return their weights second)."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None
