"""Which views of each image a training draws from, by number."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcompress.data.kept import Images
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment

FEW = 64  # views of an image


class Slots:
    """An image's views have the numbers 0 to ``count`` - 1, its *slots*: all that there are (``each`` is 0), or so many
    of its own. Where a batch has two views of each image (``two``), its own first ones come before its own second
    ones."""

    def __init__(self, views: Views, images: int, each: int, two: bool):
        self.views = views
        self.first = min(each or views.first, views.first) if two else min(each or views.count, views.count)
        self.second = min(each or views.count, views.count) if two else 0
        self.begin = self.first if each else 0  # of the second ones
        self.count = max(self.first, self.begin + self.second)
        some = (self.second or self.first) < views.count  # not all that there are
        if self.count * max(images, views.count * some) >= 2**63:
            fewer = "set data.augment.views, or " if not each and FEW * views.count < 2**63 else ""
            raise UsageError(
                "The images have too many views to be counted.",
                where="data.augment",
                got=f"{views.count:,} views of {images:,} images",
                hint=f"{fewer}leave out cutout, colour or an operation",
            )
        self._first = series(images, views.first) if two and self.first < views.first else None
        self._all = series(images, views.count) if some else None

    def draw(self, n: int, generator: torch.Generator, second: bool = False) -> Tensor:
        """``n`` slots, int64 [n], each with the same probability."""
        if second:
            return self.begin + torch.randint(self.second, (n,), generator=generator)
        return torch.randint(self.first, (n,), generator=generator)

    def view(self, index: Tensor, slot: Tensor) -> Tensor:
        """The view ids in the slots of images, int64 of one shape each."""
        if not (self.second and self.begin):
            return in_series(self._all, index, slot, self.views.count)
        first = in_series(self._first, index, slot, self.views.first)
        second = in_series(self._all, index, slot - self.begin, self.views.count)
        return torch.where(slot < self.begin, first, second)


def slots_of(augment: Augment, images: Images, like: tuple[int, ...] | None = None) -> Slots:
    """Of images [N, H, W, C], under views that are ``augment.seen`` once or twice; ``like`` as of ``Views``. Raises
    UsageError where they cannot be."""
    height, width, channels = images.shape[1:]
    return Slots(Views(augment, height, width, channels, like), len(images), augment.views, augment.second is not None)


Series = tuple[Tensor, Tensor] | None


def series(images: int, count: int) -> tuple[Tensor, Tensor]:
    """For each of so many images a series of the numbers below ``count``, in which any ``count`` that follow each other
    are different: (start + k * stride) % count for k = 0, 1, ... Returns start and stride, int64 [images] each, always
    the same."""
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.randint(count, (n,), generator=generator)

    start, stride = draw(images), draw(images)
    while len(short := (torch.gcd(stride, torch.tensor(count)) > 1).nonzero()[:, 0]):  # comes back too soon
        stride[short] = draw(len(short))
    return start, stride


def in_series(own: Series, index: Tensor, place: Tensor, count: int) -> Tensor:
    if own is None:
        return place
    start, stride = (t.to(index.device)[index] for t in own)
    return (start + place * stride) % count
