"""The operations of RandAugment and TrivialAugment, of a whole batch at once, each image with its own strength.

They do what those of ``torchvision.transforms.v2`` do: pixels that are moved are the nearest ones, and zeros move in.
All in whole numbers, in float32 where they are below 2^24, which holds them exactly: so every device makes the same
pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ONE = 2**14
FINE = 2**16
GREY = (19589, 38470, 7471)  # 0.2989, 0.587 and 0.114 in parts of 2^16, as torchvision's


def moved(images: Tensor, matrix: Tensor) -> Tensor:
    """uint8 [B, C, H, W]: each pixel is that at (a x + b y + c, d x + e y + f), all counted from the image's middle;
    ``matrix`` int32 [B, 6] has a to f in parts of 2^16. Zeros move in."""
    height, width = images.shape[2:]
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    x = 2 * torch.arange(width, device=images.device, dtype=torch.int32) - (width - 1)  # twice as fine
    y = (2 * torch.arange(height, device=images.device, dtype=torch.int32) - (height - 1))[:, None]
    column = (a * x + b * y + 2 * c + width * FINE) >> 17
    row = (d * x + e * y + 2 * f + height * FINE) >> 17
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1)).flatten(1)
    found = images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return found * inside[:, None]


def brighter(images: Tensor, factor: Tensor) -> Tensor:
    """``factor`` int32 [B] in parts of 2^14, from 0 to 2, also below."""
    return _clipped(images.float().mul_(_each(factor)))


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Farther from the image's mean grey."""
    grey = grey_of(images).to(torch.uint8)
    size = grey.shape[2] * grey.shape[3]
    mean = torch.div((ONE - factor) * grey.sum((1, 2, 3)), size, rounding_mode="floor")  # int64
    return _clipped(images.float().mul_(_each(factor)).add_(_each(mean)))


def coloured(images: Tensor, factor: Tensor) -> Tensor:
    """Each pixel farther from its own grey; grey images stay."""
    if images.shape[1] != 3:
        return images
    return _clipped(images.float().mul_(_each(factor)).add_(grey_of(images).mul_(_each(ONE - factor))))


def sharpened(images: Tensor, factor: Tensor) -> Tensor:
    """Farther from its smooth copy, of which a pixel is 5 / 13 itself and 1 / 13 each neighbour; the border stays."""
    height, width = images.shape[2:]
    if height <= 2 or width <= 2:
        return images
    pixels = images.float()
    lines = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    inner = pixels[:, :, 1:-1, 1:-1]
    total = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * inner
    smooth = total.mul_(2).add_(13).div_(26).floor_()
    found = images.clone()
    found[:, :, 1:-1, 1:-1] = _clipped((inner * _each(factor)).add_(smooth.mul_(_each(ONE - factor))))
    return found


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """The first ``bits`` int32 [B] of each pixel's eight, the others zero."""
    return images & (256 - (256 >> bits.clamp(0, 8))).to(torch.uint8).view(-1, 1, 1, 1)


def solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Pixels of ``threshold`` int32 [B] and more become 255 less themselves."""
    return torch.where(images >= threshold.clamp(0, 255).to(torch.uint8).view(-1, 1, 1, 1), 255 - images, images)


def stretched(images: Tensor) -> Tensor:
    """Auto-contrast: of each channel the darkest pixel becomes 0, the brightest 255."""
    low, high = images.amin((2, 3), keepdim=True).float(), images.amax((2, 3), keepdim=True).float()
    found = images.float().sub_(low).mul_(255).div_((high - low).clamp(min=1))
    return torch.where(high == low, images, found.to(torch.uint8))


def equalized(images: Tensor) -> Tensor:
    """Each channel's pixels spread so that all values are about alike frequent, by Pillow's rule."""
    values = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, values, counts.new_ones(1).expand_as(values))
    below = counts.cumsum(2)
    size = values.shape[2]
    brightest = counts.gather(2, (below == size).byte().argmax(2, keepdim=True))
    step = (size - brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255).to(torch.uint8)
    table = F.pad(table[..., :-1], (1, 0))
    return torch.where((step == 0).view(*images.shape[:2], 1, 1), images, table.gather(2, values).view_as(images))


def grey_of(images: Tensor) -> Tensor:
    """float32 [B, 1, H, W] in whole numbers, rounded down."""
    if images.shape[1] != 3:
        return images[:, :1].float()
    red, green, blue = (images[:, k : k + 1].float().mul_(part) for k, part in enumerate(GREY))
    return red.add_(green).add_(blue).mul_(1 / FINE).floor_()


def _each(number: Tensor) -> Tensor:
    """For each image one, float32."""
    return number.float().view(-1, 1, 1, 1)


def _clipped(parts: Tensor) -> Tensor:
    """uint8 of float32 in parts of 2^14, which are written to, rounded down."""
    return parts.mul_(1 / ONE).clamp_(0, 255).to(torch.uint8)
