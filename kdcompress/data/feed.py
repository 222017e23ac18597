"""What the steps of a training are fed: labelled images, perhaps mixed, and images without labels beside them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdcompress.data.batch import Batch
from kdcompress.data.loader import Loader
from kdcompress.data.mixing import Mixing


@dataclass(frozen=True)
class Feed:
    """``beside`` has the images without labels; ``mixing`` mixes both kinds, each with its own. ``shown``: the same, as
    teachers see the images, where that is not as the student does."""

    loader: Loader
    beside: Loader | None = None
    mixing: Mixing | None = None
    shown: Feed | None = None

    @property
    def teaching(self) -> Feed:
        """What teachers see."""
        return self.shown or self

    @property
    def loaders(self) -> list[Loader]:
        return [self.loader] if self.beside is None else [self.loader, self.beside]

    @property
    def rows_per_step(self) -> int:
        return sum(loader.rows_per_step for loader in self.loaders)

    def batches(self, step: int = 0, shown: bool = True) -> Generator[Batch, None, None]:
        """The batches of the global steps ``step``, ``step`` + 1, ... without an end. ``shown``: with what teachers
        see, where that is something else."""
        if not (shown and self.shown):
            yield from self._batches(step)
            return
        with closing(self._batches(step)) as batches, closing(self.shown.batches(step)) as others:
            for batch, other in zip(batches, others):
                yield replace(batch, shown=other.x)

    def _batches(self, step: int) -> Generator[Batch, None, None]:
        with closing(self._mixed(self.loader, step)) as labelled:
            if self.beside is None:
                yield from labelled
                return
            with closing(self._mixed(self.beside, step)) as beside:
                for batch, other in zip(labelled, beside):
                    more = other.x.expand(-1, batch.x.shape[1], -1, -1)  # grey images beside colour ones
                    yield replace(batch, x=torch.cat([batch.x, more]), view=None)

    def _mixed(self, loader: Loader, step: int) -> Generator[Batch, None, None]:
        with closing(loader.batches(step)) as batches:
            for number, batch in enumerate(batches, step):
                yield self.mixing(batch, number) if self.mixing else batch

    def apart(self, batch: Batch) -> list[Tensor | None]:
        """The images of a batch that teachers see, by the loader that they are from; None where they are not there."""
        x, labelled = batch.shown if self.shown else batch.x, len(batch.y)
        if x is None or self.beside is None:
            return [x] * len(self.loaders)
        return [x[:labelled], x[labelled:]]
