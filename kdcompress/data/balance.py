"""Classes of unequal size: what an image of each counts in the loss, or how often each is shown."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdcompress.data.truth import Truth
from kdcompress.errors import UsageError


def check_balanced(truth: Truth, balance: str) -> None:
    """Raises UsageError where classes are to be balanced and images have not one each, int64 [N]."""
    if balance != "none" and truth.ndim != 1:
        raise UsageError(
            "Classes can be balanced where each image has one.",
            where="train.balance",
            got="images with several labels, or with places in them",
            hint="leave balance out",
        )


def class_weights(truth: np.ndarray, classes: int) -> np.ndarray:
    """N / (K n) for each class of n images, float32 [classes], where K classes have some of the N images: all classes
    count alike, and an image 1 on average (King and Zeng, Political Analysis 9, 2001). 0 where there is no image.
    ``truth`` int64 [N]."""
    counts = np.bincount(truth, minlength=classes)
    there = np.count_nonzero(counts)
    return np.divide(len(truth) / there, counts, out=np.zeros(classes), where=counts > 0).astype(np.float32)


def balanced_order(truth: Tensor, generator: torch.Generator) -> Tensor:
    """An epoch of as many samples as there are images, int64 [N], in which the classes of ``truth`` int64 [N] come
    equally often, to one sample, in any order. Of a class each image comes once before any comes again."""
    counts = torch.bincount(truth)
    there = torch.nonzero(counts).flatten()
    each, rest = divmod(len(truth), len(there))
    first = torch.randperm(len(there), generator=generator)[:rest]  # classes that get one more
    drawn = []
    for place, label in enumerate(there.tolist()):
        images, wanted = torch.nonzero(truth == label).flatten(), each + int((first == place).any())
        rounds = -(-wanted // len(images))
        shuffled = [images[torch.randperm(len(images), generator=generator)] for _ in range(rounds)]
        drawn.append(torch.cat(shuffled)[:wanted] if shuffled else images[:0])
    order = torch.cat(drawn)
    return order[torch.randperm(len(order), generator=generator)]
