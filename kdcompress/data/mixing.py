"""Two images of a batch as one: mixup (Zhang et al., ICLR 2018, arXiv:1710.09412) and CutMix (Yun et al., ICCV 2019,
arXiv:1905.04899).

Whatever is random is a function of the seed and the step, and pixels are mixed in integers: so every device makes the
same images.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F

from kdcompress.data.batch import Batch, Pairing, rows_each, sent
from kdcompress.errors import UsageError
from kdcompress.recipe import Augment

PARTS = 256  # of a pixel


class Mixing:
    """``mixed = mixing(batch, step)``: each image with the one that stands half a batch further.

    ``augment.mixup`` and ``augment.cutmix`` are alpha of the share's distribution Beta(alpha, alpha); where both are
    given, each image draws one of them. The truth of a mixed image is a distribution over its ``classes`` (of a set of
    labels: how much of each is there), by the share of each image; so are methods' labels. ``rank`` and ``world`` as of
    a ``Loader``: where a batch can be halved in each process, several make the same images as one. Of ``rows`` that are
    two views of an image both are mixed in the same way, so that they are two views of one mixed image.
    """

    def __init__(
        self, augment: Augment, classes: int, seed: int, rank: int = 0, world: int = 1, rows: Pairing = "single"
    ):
        self.mixup, self.cutmix, self.classes = augment.mixup, augment.cutmix, classes
        self.seed, self.rank, self.world, self.views = seed, rank, world, rows_each(rows)

    def __call__(self, batch: Batch, step: int) -> Batch:
        """``batch.x`` uint8 [B, C, H, W]; ``batch.y`` int64 [B] or uint8 [B, K] -> the images mixed, and float32
        [B, K] shares of labels. Which images they are made of is no longer known."""
        views = [Batch(x, y) for x, y in zip(batch.x.chunk(self.views), batch.y.chunk(self.views))]
        mixed = [self._mixed(view, step) for view in views]
        return mixed[0] if len(mixed) == 1 else Batch(*(torch.cat(t) for t in zip(*((m.x, m.y) for m in mixed))))

    def _mixed(self, batch: Batch, step: int) -> Batch:
        half, (height, width) = len(batch) // 2, batch.x.shape[2:]
        own = sent(torch.from_numpy(self.drawn(step, len(batch), height, width)), batch.x.device)
        other = batch.x.roll(-half, 0).int()
        mixed = (own * batch.x + (PARTS - own) * other + PARTS // 2) >> 8
        share = own.float().mean((1, 2, 3))[:, None] / PARTS
        truth = F.one_hot(batch.y, self.classes).float() if batch.y.ndim == 1 else batch.y.float()
        return Batch(mixed.to(torch.uint8), share * truth + (1 - share) * truth.roll(-half, 0))

    def drawn(self, step: int, count: int, height: int, width: int) -> np.ndarray:
        """How much of each pixel is the image's own, in parts of 256: int32 [count, 1, height, width] of this rank's
        images, or [count, 1, 1, 1] where all pixels are alike."""
        digest = hashlib.sha256(f"{self.seed} mixing {step}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        total, mine = count * self.world, slice(self.rank, None, self.world)
        blended = rng.random(total) < 0.5 if self.mixup and self.cutmix else np.full(total, bool(self.mixup))
        shares = [rng.beta(alpha, alpha, total) if alpha else np.ones(total) for alpha in (self.mixup, self.cutmix)]
        middles = rng.random((2, total))
        blend = np.where(blended, np.rint(PARTS * shares[0]), PARTS).astype(np.int32)[mine, None, None, None]
        if not self.cutmix:
            return blend
        side = np.where(blended, 0, np.sqrt(1 - shares[1]))
        rows, columns = (
            inside(middle[mine], side[mine], length) for middle, length in zip(middles, (height, width), strict=True)
        )
        cut = (rows[:, :, None] & columns[:, None, :])[:, None]
        return np.where(cut, 0, blend).astype(np.int32)


def inside(middle: np.ndarray, side: np.ndarray, length: int) -> np.ndarray:
    """bool [N, length]: the places of a stretch of ``side`` of the length around ``middle``, both 0 to 1, [N]; the ends
    cut it off."""
    sides, middles = np.rint(side * length).astype(np.int64), (middle * length).astype(np.int64)
    start = (middles - sides // 2)[:, None]
    places = np.arange(length)
    return (places >= start) & (places < start + sides[:, None])


def check_mixable(augment: Augment, truth: np.ndarray) -> None:
    """Raises UsageError where images are to be mixed whose truth, int64 [N] or uint8 [N, K], cannot be."""
    if augment.mixes and truth.ndim > 2:
        raise UsageError(
            "Only images that have labels can be mixed.",
            where=f"data.augment.{augment.mixes}",
            got="a truth of places in the image",
            hint=f"leave {augment.mixes} out; data.augment.scale and colour are for all tasks",
        )
