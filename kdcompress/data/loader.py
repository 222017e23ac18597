"""Batches of a split, with nothing random in them that is not a function of the seed and the step."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kdcompress.data.balance import balanced_order
from kdcompress.data.batch import STRONG, Batch, Pairing, rows_each, sent
from kdcompress.data.outlined import Outlined, drawn, with_masks
from kdcompress.data.slots import Slots
from kdcompress.data.splits import Split
from kdcompress.data.views import Views, check_followed
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment

T = TypeVar("T")
READERS = 2  # threads
AHEAD = 4  # batches


class Loader:
    """An endless, shuffled and augmented stream of batches, the same from whichever step it is started.

    The order of epoch e and its view ids are functions of (``seed``, e). ``batch_size`` is that of all ``world``
    ranks together; a rank gets every world-th sample of the single-process batch, beginning with its own number.
    The last samples of an epoch that do not fill a batch are left out, others in each epoch; a split that is
    smaller than a batch is one batch.

    ``slots`` is the number of views an image has: ``augment.views`` of its own, or all. The view in slot k of image i
    has the number i * slots + k among all that there are, its *key*; ``keys`` and ``make`` are about those.

    With ``rows`` other than "single" a batch has twice as many rows: each sample's second view, or another sample of
    its class (itself where it is the only one), follows in the second half. Of "strong views" the second one has what
    ``augment.second`` says more than the first, and more slots (slots.py).

    ``balanced``: of images with one class each, an epoch shows all classes equally often (``balanced_order``), and is
    as long.

    ``like``: [H, W, C] of the student's images, where these are the same as teachers see them (``Views``): of the same
    step both loaders give the same views of the same images.

    The split stays on ``device`` as uint8 where it takes at most ``memory_limit`` bytes. Else it stays where it is, in
    host memory or in a file, and ``batches`` has the next ones read by threads; ``waited`` is for how many seconds it
    waited for them. With ``channels_last`` the images have that memory format.
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
        balanced: bool = False,
        like: tuple[int, ...] | None = None,
    ):
        if not len(split):
            raise UsageError("The split is empty.")
        self.batch_size = min(batch_size, len(split))
        if batch_size % world or self.batch_size < world:
            raise UsageError(
                "The batch cannot be split evenly over the processes.",
                where="train.batch_size",
                got=f"{batch_size}, {len(split)} images",
                allowed=f"a multiple of {world} (the processes), and not more than the images",
            )
        self.device = torch.device(device)
        self.resident = split.images.nbytes <= memory_limit
        self.home = self.device if self.resident else torch.device("cpu")
        self.split = split
        if self.resident:
            self.images = nchw(split).contiguous().to(self.home)
        self.truth = torch.from_numpy(np.asarray(split.truth)).to(self.home)
        self.outlined = split.truth if isinstance(split.truth, Outlined) else None
        check_followed(augment, split.truth)
        augment = augment.seen(rows == STRONG)
        height, width, channels = split.images.shape[1:]
        self.views = Views(augment, height, width, channels, like)
        self._slots = Slots(self.views, len(split), augment.views, rows == STRONG)
        self.slots = self._slots.count
        self.seed, self.rank, self.world, self.channels_last = seed, rank, world, channels_last
        self.rows, self.balanced = rows, balanced
        self.rows_per_step = self.batch_size * rows_each(rows)
        self.steps_per_epoch = len(split) // self.batch_size
        self.waited = 0.0
        self._plans: dict[int, tuple[Tensor, Tensor, np.ndarray]] = {}  # of two epochs: threads may be one ahead

    def __len__(self) -> int:
        """The number of images in the split."""
        return len(self.truth)

    def batches(self, step: int = 0) -> Generator[Batch, None, None]:
        """The batches of the global steps ``step``, ``step`` + 1, ... without an end."""
        if self.resident:
            yield from map(self.batch_at, count(step))
        for begun, read in ahead(self._read, count(step)):
            self.waited += perf_counter() - begun
            yield self._made(*read)

    def batch_at(self, step: int) -> Batch:
        """The batch of one global step, counted from 0 over all epochs."""
        return self._made(*self._read(step))

    def _read(self, step: int) -> tuple[Tensor, ...]:
        """A batch before its augmentation: images, truths, indices and view ids, where the split is; and the masks of
        the objects, if they have any."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, views, _ = self._plan(epoch)
        mine = self._mine(place)
        index = order[:, mine].flatten()
        read = self._fetch(index), self.truth.index_select(0, index), index, views[:, mine].flatten()
        if self.outlined is None:
            return read
        rows = self.keys(step) // self.slots  # known on the host, too
        return *read, torch.from_numpy(drawn(self.outlined[rows]))

    def _made(self, x: Tensor, *rest: Tensor) -> Batch:
        y, index, view, *masks = (sent(tensor, self.device) for tensor in rest)
        if masks:
            y = with_masks(y, self.views.shown(masks[0], view))
        if y.ndim == 3:  # maps, or objects
            y = self.views.mapped(y, view) if y.dtype == torch.uint8 else self.views.moved(y, view)
        return Batch(self._augmented(x, view), y, index, view)

    def keys(self, step: int, batches: int = 1) -> np.ndarray:
        """The keys of a step's batch in its order, int64; or of so many batches, those of one epoch alone. They are
        known on the host, without a look at the device."""
        epoch, place = divmod(step, self.steps_per_epoch)
        keys = self._plan(epoch)[2]
        whole = [keys[:, self._mine(p)].ravel() for p in range(place, min(place + batches, self.steps_per_epoch))]
        return np.concatenate(whole)

    def make(self, keys: np.ndarray) -> Tensor:
        """The images of ``keys`` as in a batch, uint8 [len(keys), C, H, W] on the device."""
        index, slot = (torch.from_numpy(t) for t in np.divmod(keys, self.slots))
        view = self._slots.view(index, slot)  # on the host, where the table of each image's own views is
        return self._augmented(self._fetch(sent(index, self.home)), sent(view, self.device))

    def _mine(self, place: int) -> slice:
        """Where in an epoch's plan this rank's part of a batch is."""
        start = place * self.batch_size
        return slice(start + self.rank, start + self.batch_size, self.world)

    def _augmented(self, x: Tensor, view: Tensor) -> Tensor:
        """The views of images, on the device."""
        x = self.views.apply(x.to(self.device, non_blocking=True).contiguous(), view)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def _plan(self, epoch: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """The order and the view ids of an epoch, int64 [1, N] each, or [2, N] with the second halves, beside the
        images; and their keys."""
        if (known := self._plans.get(epoch)) is not None:
            return known
        digest = hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        draw = balanced_order(self.truth.cpu(), generator) if self.balanced else None
        order = (torch.randperm(len(self), generator=generator) if draw is None else draw)[None]
        slots = self._slots.draw(len(self), generator)[None]
        if self.rows != "single":
            partners = self._classmates(order[0], generator) if self.rows == "class pairs" else order[0]
            order = torch.stack([order[0], partners])
            slots = torch.stack([slots[0], self._slots.draw(len(self), generator, self.rows == STRONG)])
        views = self._slots.view(order, slots)
        made = order.to(self.home), views.to(self.home), (order * self.slots + slots).numpy()
        self._plans = {**dict([*self._plans.items()][-1:]), epoch: made}
        return made

    def _classmates(self, order: Tensor, generator: torch.Generator) -> Tensor:
        """For each sample of ``order`` another one of its class, drawn with equal chances."""
        labels = self.truth.cpu()
        by_class = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels)
        place = torch.empty_like(by_class)
        place[by_class] = torch.arange(len(labels))
        first, count = (counts.cumsum(0) - counts)[labels[order]], counts[labels[order]]
        draw = torch.rand(len(order), generator=generator, dtype=torch.float64)
        steps = 1 + (draw * (count - 1)).long()  # 1 to count - 1 places on, around the class
        return by_class[first + (place[order] - first + steps) % count]

    def _fetch(self, index: Tensor) -> Tensor:
        """Images of the split, uint8 [len(index), C, H, W], where the split is."""
        if self.resident:
            return self.images.index_select(0, index)
        x = torch.from_numpy(self.split.images[index.numpy()])
        return (x.pin_memory() if self.device.type == "cuda" else x).permute(0, 3, 1, 2)


def ahead(make: Callable[[int], T], steps: Iterator[int]) -> Iterator[tuple[float, T]]:
    """make(step) of each step in turn, made by threads before it is asked for; and when it was."""
    pool = ThreadPoolExecutor(READERS, "batches")
    try:
        coming = deque(pool.submit(make, step) for step in islice(steps, AHEAD))
        while coming:
            begun = perf_counter()
            made = coming.popleft().result()
            coming.extend(pool.submit(make, step) for step in islice(steps, 1))
            yield begun, made
    finally:
        pool.shutdown(cancel_futures=True)


def eval_batches(
    split: Split, batch_size: int, device: torch.device | str = "cpu", channels_last: bool = False
) -> Iterator[Batch]:
    """The whole split once, in its order and as it is; the last batch holds what is left."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for start in range(0, len(split), batch_size):
        part = Split(split.images[start : start + batch_size], split.truth[start : start + batch_size])
        index = torch.arange(start, start + len(part))
        view = torch.full_like(index, Views.identity)
        y = torch.from_numpy(np.asarray(part.truth))
        yield Batch(nchw(part).clone(memory_format=layout), y, index, view).to(device)


def nchw(split: Split) -> Tensor:
    """A split's images as uint8 [N, C, H, W] on the same memory."""
    return torch.from_numpy(split.images[:]).permute(0, 3, 1, 2)
