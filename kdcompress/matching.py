"""How far two files find the same in an image. numpy alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kdcompress.boxes import Detections


@dataclass(frozen=True, eq=False)
class Matching:
    """Detections of one file and another's that belong together: ``pairs`` int64 [M, 2] of their places in each. The
    others are ``alone``, in one and in the other; those that a small difference of scores explains are not counted."""

    pairs: np.ndarray
    alone: tuple[int, int]


def matched(
    mine: Detections,
    theirs: Detections,
    *,
    overlap: float = 0.5,
    score: float = 0.05,
    most: int = 100,
    tolerance: float = 0.0,
) -> Matching:
    """Match one to one: from my best score on, each with the one of the same label that it overlaps most, by at least
    ``overlap``, among those that are left.

    ``score`` and ``most`` are what both were suppressed with. A detection without a partner is a tie, and not alone,
    where its score is within ``tolerance`` of what the other file had to beat: ``score``, or, where that file found
    ``most``, its lowest. Nor is a box without an area, which overlaps not even itself.
    """
    fits = np.where(mine.labels[:, None] == theirs.labels, mine.ious(theirs), 0.0)
    pairs = []
    for i in np.argsort(-mine.scores, kind="stable") if len(theirs) else ():
        j = int(fits[i].argmax())
        if fits[i, j] >= overlap and fits[i, j] > 0:
            pairs.append((int(i), j))
            fits[:, j] = 0.0
    found = np.array(pairs, np.int64).reshape(-1, 2)
    alone = []
    for side, (own, other) in enumerate(((mine, theirs), (theirs, mine))):
        rest = np.delete(np.where(own.areas() > 0, own.scores, 0.0), found[:, side])
        alone.append(int((rest > least(other, score, most) + tolerance).sum()))
    return Matching(found, (alone[0], alone[1]))


def least(found: Detections, score: float, most: int) -> float:
    """What a candidate had to beat to be found."""
    return max(score, float(found.scores.min())) if len(found) >= most else score


def f1(matchings: Iterable[Matching]) -> float:
    """Of all images' detections the share that have a partner, 0 to 1: twice the pairs over those of both files. 1
    where nothing was found."""
    both = alone = 0
    for each in matchings:
        both, alone = both + 2 * len(each.pairs), alone + sum(each.alone)
    return both / (both + alone) if both + alone else 1.0
