"""The operations of RandAugment and TrivialAugment, of a whole batch at once, each image with its own strength.

They do what those of ``torchvision.transforms.v2`` do: pixels that are moved are the nearest ones, and zeros move in.
All in integers, so that every device makes the same pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ONE = 2**16
GREY = (19589, 38470, 7471)  # 0.2989, 0.587 and 0.114, as torchvision's


def moved(images: Tensor, matrix: Tensor) -> Tensor:
    """uint8 [B, C, H, W]: each pixel is that at (a x + b y + c, d x + e y + f), all counted from the image's middle;
    ``matrix`` int32 [B, 6] has a to f in parts of 2^16. Zeros move in."""
    height, width = images.shape[2:]
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    x = 2 * torch.arange(width, device=images.device, dtype=torch.int32) - (width - 1)  # twice as fine
    y = (2 * torch.arange(height, device=images.device, dtype=torch.int32) - (height - 1))[:, None]
    column = (a * x + b * y + 2 * c + width * ONE) >> 17
    row = (d * x + e * y + 2 * f + height * ONE) >> 17
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1)).flatten(1)
    found = images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return found * inside[:, None]


def brighter(images: Tensor, factor: Tensor) -> Tensor:
    """``factor`` int32 [B] in parts of 2^16, also below."""
    return _clipped(images.int() * factor.view(-1, 1, 1, 1))


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Farther from the image's mean grey."""
    grey = grey_of(images)
    mean = ONE * grey.sum((1, 2, 3), keepdim=True) // (grey.shape[2] * grey.shape[3])  # int64
    factor = factor.view(-1, 1, 1, 1)
    return _clipped(images.int() * factor + (((ONE - factor) * mean) >> 16).int())


def coloured(images: Tensor, factor: Tensor) -> Tensor:
    """Each pixel farther from its own grey; grey images stay."""
    if images.shape[1] != 3:
        return images
    factor = factor.view(-1, 1, 1, 1)
    return _clipped(images.int() * factor + (ONE - factor) * grey_of(images))


def sharpened(images: Tensor, factor: Tensor) -> Tensor:
    """Farther from its smooth copy, of which a pixel is 5 / 13 itself and 1 / 13 each neighbour; the border stays."""
    height, width = images.shape[2:]
    if height <= 2 or width <= 2:
        return images
    pixels = images.int()
    lines = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    total = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * pixels[:, :, 1:-1, 1:-1]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26
    factor = factor.view(-1, 1, 1, 1)
    return _clipped(pixels * factor + (ONE - factor) * smooth)


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """The first ``bits`` int32 [B] of each pixel's eight, the others zero."""
    return images & (256 - (256 >> bits.clamp(0, 8))).to(torch.uint8).view(-1, 1, 1, 1)


def solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Pixels of ``threshold`` int32 [B] and more become 255 less themselves."""
    return torch.where(images >= threshold.view(-1, 1, 1, 1), 255 - images, images)


def stretched(images: Tensor) -> Tensor:
    """Auto-contrast: of each channel the darkest pixel becomes 0, the brightest 255."""
    low, high = images.amin((2, 3), keepdim=True).int(), images.amax((2, 3), keepdim=True).int()
    found = (images.int() - low) * 255 // (high - low).clamp(min=1)
    return torch.where(high == low, images, found.to(torch.uint8))


def equalized(images: Tensor) -> Tensor:
    """Each channel's pixels spread so that all values are about alike frequent, by Pillow's rule."""
    values = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    below = counts.cumsum(2)
    size = values.shape[2]
    brightest = counts.gather(2, (below == size).byte().argmax(2, keepdim=True))
    step = (size - brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = F.pad(table[..., :-1], (1, 0))
    return torch.where(
        (step == 0).view(*images.shape[:2], 1, 1), images, table.gather(2, values).view_as(images)
    ).byte()


def grey_of(images: Tensor) -> Tensor:
    """int32 [B, 1, H, W], rounded down."""
    pixels = images.int()
    if images.shape[1] != 3:
        return pixels[:, :1]
    red, green, blue = (pixels[:, k : k + 1] * part for k, part in enumerate(GREY))
    return (red + green + blue) >> 16


def _clipped(parts: Tensor) -> Tensor:
    """uint8 of int32 in parts of 2^16, rounded down."""
    return (parts >> 16).clamp(0, 255).to(torch.uint8)
