"""Which images of a class stand for it when later classes are learnt: iCaRL's herding (Rebuffi, Kolesnikov, Sperl and
Lampert, CVPR 2017, arXiv:1611.07725, algorithm 4)."""

from __future__ import annotations

import numpy as np
import torch

from kdcompress.data.loader import eval_batches
from kdcompress.data.splits import Split
from kdcompress.errors import UsageError
from kdcompress.training.distillation import Member

BATCH = 512  # images


def herding(features: np.ndarray, count: int) -> np.ndarray:
    """The images whose mean feature is nearest to the mean of all, chosen one after the other: rows of ``features``
    [N, D], int64 [count], the first ones the most important. Features get length 1 before anything is compared, and an
    image is chosen once.

    The k-th minimises |mean - (sum of the chosen + x) / k|, which for x of length 1 is the largest x . (k mean - sum).
    """
    unit = _unit(features)
    mean, total = unit.mean(0), np.zeros(unit.shape[1])
    free = np.ones(len(unit), bool)
    chosen = []
    for k in range(1, count + 1):
        row = int(np.where(free, unit @ (k * mean - total), -np.inf).argmax())
        chosen.append(row)
        free[row] = False
        total += unit[row]
    return np.array(chosen, np.int64)


def class_means(features: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """The mean feature of each class, of length 1: float64 [classes, D] of ``features`` [N, D] and ``truth`` [N]. The
    nearest of them to a feature f of length 1 is the one with the largest product with f: |f - m|^2 = 2 - 2 f . m."""
    unit = _unit(features)
    return _unit(np.stack([unit[truth == k].mean(0) for k in range(classes)]))


def _unit(rows: np.ndarray) -> np.ndarray:
    """float64 [N, D], each of length 1; what is zero stays zero."""
    found = rows.astype(np.float64)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


@torch.no_grad()
def features_of(member: Member, split: Split, device: torch.device) -> np.ndarray:
    """The pooled feature of each image, float32 [N, D], in eval mode; ``member`` is tapped for it."""
    member.eval().to(device)
    found = []
    for batch in eval_batches(split, BATCH, device):
        pooled = member(batch.x).pooled
        assert pooled is not None
        found.append(pooled.float().cpu().numpy())
    return np.concatenate(found)


def check_pooled(member: Member) -> None:
    """Raises UsageError for a network without a pooled feature, in which no exemplars can be found."""
    if member.tapped.shapes.pooled is None:
        raise UsageError(
            "The student has no pooled feature to choose exemplars by.",
            where="lifelong.exemplars",
            got=type(member.net).__name__,
            hint="leave exemplars out, or take a network with a linear classifier",
        )
