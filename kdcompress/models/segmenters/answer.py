"""What a segmenter says of an image: the logits of each place, and what ships of them."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from kdcompress.class_maps import IGNORED
from kdcompress.distributed import processes, total


class MapAnswer(NamedTuple):
    """``map`` are logits [N, K, h, w]; ``size`` the image's height and width."""

    map: Tensor
    size: tuple[int, int]

    @property
    def logits(self) -> Tensor:
        """[N, h, w, K]."""
        return self.map.permute(0, 2, 3, 1)

    def loss(self, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the logits at the size of the class maps ``y`` uint8 [N, H, W], bilinear: a float32 scalar,
        summed over the places that are not ignored and divided by their number, in all processes."""
        logits = F.interpolate(self.map[: len(y)].float(), y.shape[-2:], mode="bilinear")
        options = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": smoothing}
        judged = total((y != IGNORED).sum().float()) / processes()
        return F.cross_entropy(logits, y.long(), **options) / judged.clamp(min=1.0)  # type: ignore[arg-type]

    def shipped(self) -> tuple[Tensor, ...]:
        return (self.map.float(),)

    def classes(self) -> tuple[Tensor, ...]:
        """The number of each pixel's class, float32 [N, H, W]."""
        logits = F.interpolate(self.map.float(), self.size, mode="bilinear")
        return (logits.argmax(1).float(),)
