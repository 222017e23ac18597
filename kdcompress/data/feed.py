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
    """``beside`` has the images without labels; ``mixing`` mixes both kinds, each with its own."""

    loader: Loader
    beside: Loader | None = None
    mixing: Mixing | None = None

    @property
    def loaders(self) -> list[Loader]:
        return [self.loader] if self.beside is None else [self.loader, self.beside]

    @property
    def rows_per_step(self) -> int:
        return sum(loader.rows_per_step for loader in self.loaders)

    def batches(self, step: int = 0) -> Generator[Batch, None, None]:
        """The batches of the global steps ``step``, ``step`` + 1, ... without an end."""
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

    def apart(self, batch: Batch) -> list[Tensor]:
        """The images of a batch, by the loader that they are from."""
        labelled = len(batch.y)
        return [batch.x] if self.beside is None else [batch.x[:labelled], batch.x[labelled:]]
