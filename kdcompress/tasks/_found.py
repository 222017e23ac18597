"""What detectors find, as answers that a step keeps: arrays, and their average precision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from kdcompress.average_precision import AveragePrecision, average_precision
from kdcompress.boxes import Detections
from kdcompress.data.objects import BOX, CLASS
from kdcompress.data.truth import Truth, encoded

MOST = 100  # detections that are kept of an image
SCORE = 5  # a column of those, after BOX and CLASS


def packed(each: Iterable[Detections]) -> np.ndarray:
    """As answers, float32 [N, 100, 6]."""
    rows = []
    for found in each:
        row = np.zeros((MOST, 6), np.float32)
        filled = row[: len(found)]
        filled[:, BOX], filled[:, CLASS], filled[:, SCORE] = found.boxes, found.labels, found.scores
        rows.append(row)
    return np.stack(rows) if rows else np.zeros((0, MOST, 6), np.float32)


def unpacked(answers: np.ndarray, least: float = 0.0) -> Iterator[Detections]:
    """Of each image: those that score above ``least``."""
    for row in answers:
        there = row[row[:, SCORE] > least]
        yield Detections(there[:, BOX], there[:, CLASS].astype(np.int64), there[:, SCORE])


def precision_of(answers: np.ndarray, truth: Truth, masks: Sequence[Sequence[bytes]] | None = None) -> AveragePrecision:
    """Of answers to a split; of the last few it is known. It has those labels that an object or an answer has, and all
    before them: those without an object do not count. ``masks``: of the answers, where theirs count."""
    digest = hashlib.sha256(repr((answers.shape, truth.shape, masks is None)).encode())
    digest.update(np.ascontiguousarray(answers).data)
    digest.update(encoded(truth))
    for each in masks or ():
        digest.update(b" ".join(each) + b"\n")
    return _precision_of(_Answered(digest.digest(), answers, truth, masks))


@dataclass(frozen=True)
class _Answered:
    """The same where the hash is."""

    hash: bytes
    answers: np.ndarray = field(compare=False)
    truth: Truth = field(compare=False)
    masks: Sequence[Sequence[bytes]] | None = field(compare=False)


@lru_cache(maxsize=4)
def _precision_of(given: _Answered) -> AveragePrecision:
    told = (each[..., CLASS].max(initial=0) for each in (np.asarray(given.truth), given.answers))
    return average_precision(list(unpacked(given.answers)), given.truth, 1 + int(max(told)), given.masks)
