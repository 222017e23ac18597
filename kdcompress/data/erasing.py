"""Random erasing (Zhong et al., AAAI 2020, arXiv:1708.04896), with torchvision's areas and shapes, in steps."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcompress.data.likened import likened
from kdcompress.data.rows import OnDevice

AREA = 0.02, 0.33  # of the image's
RATIO = 0.3, 3.3  # of height to width
AREAS, RATIOS, PLACES = 8, 5, 8  # steps of each; places along each side


class Erasing:
    """A number, int64 from 0 to ``count`` - 1, for each rectangle that is set to zero: the last
    AREAS * RATIOS * PLACES^2 are rectangles, mixed radix, x the fastest, then y, shape and area, and the others
    none. They are those of images of ``height`` x ``width``, applied to images of the size ``own``."""

    def __init__(self, probability: float, height: int, width: int, own: tuple[int, int] | None = None):
        tall, wide = own or (height, width)
        boxes = [
            self._box(area, ratio, y, x, height, width)
            for area in range(AREAS)
            for ratio in range(RATIOS)
            for y in range(PLACES)
            for x in range(PLACES)
        ]
        self.count = round(len(boxes) / probability)
        self.none = self.count - len(boxes)
        sides = ((height, tall), (height, tall), (width, wide), (width, wide))
        scaled = [[likened(at, *side) for at, side in zip(box, sides)] for box in boxes]
        self._tables = OnDevice(torch.tensor([[0, 0, 0, 0], *scaled]))

    @staticmethod
    def _box(area: int, ratio: int, y: int, x: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, bottom, left and right."""
        share = AREA[0] + (AREA[1] - AREA[0]) * (area + 0.5) / AREAS
        shape = RATIO[0] * (RATIO[1] / RATIO[0]) ** ((ratio + 0.5) / RATIOS)
        high = min(height, max(1, round((share * height * width * shape) ** 0.5)))
        wide = min(width, max(1, round((share * height * width / shape) ** 0.5)))
        top, left = round((height - high) * y / (PLACES - 1)), round((width - wide) * x / (PLACES - 1))
        return top, top + high, left, left + wide

    def apply(self, images: Tensor, number: Tensor) -> Tensor:
        """uint8 [B, C, H, W] by ``number`` [B, 1]."""
        (boxes,) = self._tables(images.device)
        top, bottom, left, right = boxes[(number.view(-1) - self.none + 1).clamp(min=0)][:, :, None].unbind(1)
        rows, columns = (torch.arange(n, device=images.device) for n in images.shape[2:])
        inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
        return images * ~inside[:, None]
