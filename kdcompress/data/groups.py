"""Classes that are learnt in groups, one after the other: a source with its classes in that order, and what a network
sees of it when it learns a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kdcompress.artifact import content_hash
from kdcompress.data.source import statistics
from kdcompress.data.splits import Source
from kdcompress.data.truth import of_each
from kdcompress.errors import UsageError, some

WHERE = "lifelong.groups"


def numbered(asked: int | Sequence[Sequence[str]], labels: Sequence[str]) -> list[list[int]]:
    """The numbers of the classes of each group. A number of groups: in the order of the classes, the first groups
    larger by one where they are not of equal size.

    Raises UsageError for more groups than there can be, an unknown class, classes in no group, and a first group of
    one class, in which nothing is told apart.
    """
    if isinstance(asked, int):
        found = [part.tolist() for part in np.array_split(np.arange(len(labels)), asked)]
        got = f"{asked} groups, {len(labels)} classes"
    else:
        number = {label: k for k, label in enumerate(labels)}
        names = [name for group in asked for name in group]
        if unknown := [name for name in names if name not in number]:
            raise UsageError(
                "Groups of classes have names that the data do not.",
                where=WHERE,
                got=some(unknown),
                allowed=some(labels, 20),
            )
        if left := [label for label in labels if label not in names]:
            raise UsageError("Every class is in a group.", where=WHERE, got=f"in none: {some(left)}")
        found = [[number[name] for name in group] for group in asked]
        got = f"{len(found[0])} class in the first"
    if len(found[0]) < 2 or not all(found):
        raise UsageError("The first group has two classes or more, the others one.", where=WHERE, got=got)
    return found


def in_order(source: Source, groups: Sequence[Sequence[int]]) -> Source:
    """The source with its classes in the order in which they are learnt; itself where that is how they are."""
    order = [number for group in groups for number in group]
    if order == sorted(order):
        return source
    place = np.argsort(order).astype(np.int64)
    splits = {name: getattr(source, name) for name in ("train", "validation", "test")}
    moved = {name: replace(split, truth=place[split.truth]) for name, split in splits.items()}
    labels = tuple(source.labels[number] for number in order)
    return replace(source, labels=labels, hash=content_hash([source.hash, order]), **moved)


def learning(source: Source, sizes: Sequence[int], group: int, exemplars: np.ndarray | None = None) -> Source:
    """What is seen when a ``group``, counted from 0, is learnt: of the training images those of its classes, and the
    ``exemplars`` of earlier ones (their places in the training split), of the others those of all classes so far.
    ``source`` has its classes in that order, ``sizes`` are the groups'. Mean and std are those of the first group's
    images, which every later network has to start from."""
    ends = np.cumsum(sizes)
    first, end = int(ends[group]) - sizes[group], int(ends[group])
    truth = source.train.truth
    rows = np.flatnonzero((truth >= first) & (truth < end))
    facts = [source.hash, "group", first, end]
    if exemplars is not None:
        rows, facts = np.union1d(rows, exemplars), [*facts, exemplars.tolist()]
    beginning = source.train.take(np.flatnonzero(truth < ends[0]))
    mean, std = statistics(beginning.images)
    return replace(
        source,
        labels=source.labels[:end],
        train=source.train.take(rows),
        validation=source.validation.take(np.flatnonzero(source.validation.truth < end)),
        test=source.test.take(np.flatnonzero(source.test.truth < end)),
        mean=mean,
        std=std,
        hash=content_hash(facts),
    )


def check_exemplars(source: Source, exemplars: int) -> None:
    """Raises UsageError where a class has fewer training images than are to be kept of it."""
    counts = of_each(source.train.truth, len(source.labels))
    if few := [f"{source.labels[k]} ({counts[k]:,})" for k in np.flatnonzero(counts < exemplars)]:
        raise UsageError(
            "More exemplars are to be kept of a class than it has training images.",
            where="lifelong.exemplars",
            got=f"{exemplars:,}; {some(few)}",
            allowed=f"0 to {int(counts.min()):,}",
        )
