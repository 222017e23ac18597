"""How an image of any shape becomes one of the size that a network takes, and how places go there and back."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Fit = Literal["crop", "letterbox", "squash"]
GREY = 114  # of letterbox's bars
Size = tuple[int, int]  # height, width


class Placed(NamedTuple):
    """An image of ``source`` pixels is resized to ``resized``, and put into the ``frame`` with its corner at
    ``corner`` (top, left), which is negative where the frame cuts it. Boxes are float [..., 4]: x1, y1, x2, y2."""

    source: Size
    resized: Size
    corner: Size
    frame: Size

    def there(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes in pixels of the source -> in pixels of the frame, unclipped."""
        scale, start = self._as_boxes()
        return boxes * scale + start

    def back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes in pixels of the frame -> in pixels of the source, unclipped."""
        scale, start = self._as_boxes()
        return (boxes - start) / scale

    def _as_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        (h, w), (rh, rw), (top, left) = self.source, self.resized, self.corner
        return np.array([rw / w, rh / h] * 2), np.array([left, top] * 2, float)


def placed(source: Size, frame: Size, fit: Fit) -> Placed:
    """``letterbox``: as large as fits, in the middle, its shape kept. ``squash``: stretched to the frame. ``crop``: as
    small as covers the frame, its shape kept, the middle of it."""
    (h, w), (fh, fw) = source, frame
    if fit == "squash":
        return Placed(source, frame, (0, 0), frame)
    if fit == "letterbox":
        tall = fh * w <= fw * h  # the height decides
        resized = (fh, max(1, _rounded(w * fh, h))) if tall else (max(1, _rounded(h * fw, w)), fw)
        return Placed(source, resized, ((fh - resized[0]) // 2, (fw - resized[1]) // 2), frame)
    tall = fh * w >= fw * h
    resized = (fh, fh * w // h) if tall else (fw * h // w, fw)
    return Placed(source, resized, (-round((resized[0] - fh) / 2), -round((resized[1] - fw) / 2)), frame)


def frame_of(size: int | Size) -> Size:
    """Height and width of ``data.size``: the side of a square, or both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _rounded(number: int, by: int) -> int:
    """number / by to the nearest, halves up."""
    return (2 * number + by) // (2 * by)
