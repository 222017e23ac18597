"""Batches of a split, with nothing random in them that is not a function of the seed and the step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from kdcompress.data.batch import Batch, Pairing
from kdcompress.data.source import Split
from kdcompress.data.views import Views
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment


class Loader:
    """An endless, shuffled and augmented stream of batches, the same from whichever step it is started.

    The order of epoch e and its view ids are functions of (``seed``, e). ``batch_size`` is that of all ``world``
    ranks together; a rank gets every world-th sample of the single-process batch, beginning with its own number.
    The last samples of an epoch that do not fill a batch are left out, others in each epoch; a split that is
    smaller than a batch is one batch.

    With ``rows`` other than "single" a batch has twice as many rows: each sample's second view, or another sample of
    its class (itself where it is the only one), follows in the second half.

    The split stays on ``device`` as uint8 where it takes at most ``memory_limit`` bytes, else it stays in host
    memory and each batch is copied. With ``channels_last`` the images have that memory format.
    """

    def __init__(
        self,
        split: Split,
        augment: Augment,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
        memory_limit: int = 4 * 2**30,
        rows: Pairing = "single",
    ):
        if not len(split):
            raise UsageError("The split is empty.")
        self.batch_size = min(batch_size, len(split))
        if batch_size % world or self.batch_size < world:
            raise UsageError(
                "The batch cannot be shared by all processes.",
                where="train.batch_size",
                got=f"{batch_size}, {len(split)} images",
                allowed=f"a multiple of {world} processes, and that many images",
            )
        self.device = torch.device(device)
        self.resident = split.images.nbytes <= memory_limit
        home = self.device if self.resident else torch.device("cpu")
        self.images = nchw(split).contiguous().to(home)
        self.labels = torch.from_numpy(split.labels).to(home)
        self.views = Views(augment, *self.images.shape[2:])
        self.seed, self.rank, self.world, self.channels_last = seed, rank, world, channels_last
        self.rows = rows
        self.rows_per_step = self.batch_size * (1 if rows == "single" else 2)
        self.steps_per_epoch = len(split) // self.batch_size
        self._epoch: tuple[int, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """The number of images in the split."""
        return len(self.labels)

    def batches(self, step: int = 0) -> Iterator[Batch]:
        """The batches of the global steps ``step``, ``step`` + 1, ... without an end."""
        while True:
            yield self.batch_at(step)
            step += 1

    def batch_at(self, step: int) -> Batch:
        """The batch of one global step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, views = self._plan(epoch)
        start = place * self.batch_size
        mine = slice(start + self.rank, start + self.batch_size, self.world)
        index, view = order[:, mine].flatten(), views[:, mine].flatten()
        x, y = self._fetch(self.images, index), self._fetch(self.labels, index)
        index, view = (t.to(self.device, non_blocking=True) for t in (index, view))
        x = self.views.apply(x, view)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return Batch(x, y, index, view)

    def _plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The order and the view ids of an epoch, int64 [1, N] each, or [2, N] with the second halves, beside the
        images."""
        if self._epoch is None or self._epoch[0] != epoch:
            digest = hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
            order = torch.randperm(len(self), generator=generator)[None]
            views = self.views.draw(len(self), generator)[None]
            if self.rows != "single":
                partners = order[0] if self.rows == "views" else self._classmates(order[0], generator)
                order = torch.stack([order[0], partners])
                views = torch.stack([views[0], self.views.draw(len(self), generator)])
            self._epoch = epoch, order.to(self.images.device), views.to(self.images.device)
        return self._epoch[1:]

    def _classmates(self, order: Tensor, generator: torch.Generator) -> Tensor:
        """For each sample of ``order`` another one of its class, drawn with equal chances."""
        labels = self.labels.cpu()
        by_class = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels)
        place = torch.empty_like(by_class)
        place[by_class] = torch.arange(len(labels))
        first, count = (counts.cumsum(0) - counts)[labels[order]], counts[labels[order]]
        draw = torch.rand(len(order), generator=generator, dtype=torch.float64)
        steps = 1 + (draw * (count - 1)).long()  # 1 to count - 1 places on, around the class
        return by_class[first + (place[order] - first + steps) % count]

    def _fetch(self, tensor: Tensor, index: Tensor) -> Tensor:
        if self.resident:
            return tensor.index_select(0, index)
        pinned = self.device.type == "cuda"
        out = torch.empty(len(index), *tensor.shape[1:], dtype=tensor.dtype, pin_memory=pinned)
        return torch.index_select(tensor, 0, index, out=out).to(self.device, non_blocking=pinned)


def eval_batches(
    split: Split, batch_size: int, device: torch.device | str = "cpu", channels_last: bool = False
) -> Iterator[Batch]:
    """The whole split once, in its order and as it is; the last batch holds what is left."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for start in range(0, len(split), batch_size):
        part = Split(split.images[start : start + batch_size], split.labels[start : start + batch_size])
        index = torch.arange(start, start + len(part))
        view = torch.full_like(index, Views.identity)
        yield Batch(nchw(part).clone(memory_format=layout), torch.from_numpy(part.labels), index, view).to(device)


def nchw(split: Split) -> Tensor:
    """A split's images as uint8 [N, C, H, W] on the same memory."""
    return torch.from_numpy(split.images).permute(0, 3, 1, 2)
