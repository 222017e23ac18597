"""Whether a score says more than answers that need no look at the images: always the class that most of them have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcompress.intervals import Sample, lost, sample
from kdcompress.task import Task


def blind_answers(task: Task, truth: Any, labels: Sequence[str]) -> tuple[Sample, str] | None:
    """The best such answers to a split, judged, and what they are; None where the task has none."""
    found = task.blind(truth, labels)
    return (sample(task, found.answers, truth, found.score), found.what) if found else None


def not_above(mine: Sample, blind: Sample, what: str) -> str:
    """That a score above that of blind answers may be so by chance, as the end of a sentence about who has it; "" where
    it is shown to be above, and where it is not above at all, which is told elsewhere."""
    ahead = lost(blind, mine) if mine.score > blind.score else None
    if ahead is None or ahead.low > 0:
        return ""
    return (
        f"is not shown to be better than {what}: {mine.score:.1f} % against {blind.score:.1f} % of {mine.images:,} "
        f"images, 95 % interval of the difference {ahead.low:.1f} to {ahead.high:.1f} points"
    )
