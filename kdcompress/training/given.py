"""A teacher whose answers are in a file, as a training reads them: by the view of an image, as those that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcompress.data.given import GivenAnswers, digests
from kdcompress.data.kept import Images
from kdcompress.data.loader import Loader
from kdcompress.errors import UsageError
from kdcompress.models.opaque import GivenTeacher
from kdcompress.recipe import Augment


class Given:
    """``rows`` int64 [images of the loader]: where in the file each is."""

    def __init__(self, teacher: GivenTeacher, loader: Loader, augment: Augment):
        check_views(teacher.given, augment, loader.slots)
        self.given, self.order, self.slots = teacher.given, teacher.order, loader.slots
        self.rows = rows_of(teacher.given, loader.split.images)

    def logits(self, keys: np.ndarray) -> np.ndarray:
        """float32 [len(keys), K] for keys of the loader, as the source counts its classes."""
        image, view = np.divmod(keys, self.slots)
        return np.ascontiguousarray(self.given.logits(self.rows[image] * self.slots + view)[:, self.order])


def plain(augment: Augment) -> bool:
    """Whether images are seen as they are."""
    return augment.model_copy(update={"views": 0}) == Augment()


def check_views(given: GivenAnswers, augment: Augment, slots: int) -> None:
    """Raises UsageError where the answers are to other views than a training's, of which an image has ``slots``."""
    where, asked = "teacher.answers", augment.deciding()
    if given.augment is None and not plain(augment):
        on = [key for key, value in asked.items() if value and key != "views"]
        raise UsageError(
            "The answers are to the images as they are, and the training sees other views of them.",
            where=where,
            got=f"data.augment has {', '.join(on)}",
            allowed="no data.augment",
            hint="leave data.augment out; or a file of `kdcompress cache export`, which has the answers to each view",
        )
    if given.augment is not None and (given.augment != asked or given.views != slots):
        raise UsageError(
            "The answers are to other views than the training's.",
            where=where,
            got=f"data.augment {_said(asked)}: {slots:,} views",
            allowed=f"data.augment {_said(given.augment)}: {given.views:,} views, as in {given.path.name}",
        )


def rows_of(given: GivenAnswers, images: Images) -> np.ndarray:
    """Where in the file each image is. Raises UsageError where one is not in it, and where views of images that are
    numbered by their places would be of others."""
    rows = given.places(digests(images))
    if missing := int((rows < 0).sum()):
        raise UsageError(
            "The file has no answers to some of the images.",
            where=given.path,
            got=f"none to {missing:,} of {len(images):,}; the first is number {int(np.argmax(rows < 0)):,} of the set",
            hint="pixels are compared: data.size, data.fit and the files have to be those that the answers are to",
        )
    if given.views > 1 and own_views(given) and not _a_set(given, rows):
        raise UsageError(
            "The views of an image depend on its place among the training images, and those of the file are others.",
            where=given.path,
            got=f"{len(images):,} images",
            allowed=f"{' or '.join(f'{n:,}' for n in given.sets)}, in the file's order: the same data and split",
        )
    return rows


def _a_set(given: GivenAnswers, rows: np.ndarray) -> bool:
    """Whether these are the images of one of the file's sets, in its order."""
    starts = np.cumsum([0, *given.sets])[:-1].tolist()
    return any(np.array_equal(rows, np.arange(start, start + n)) for start, n in zip(starts, given.sets))


def own_views(given: GivenAnswers) -> bool:
    """Whether each image has views of its own."""
    return bool(given.augment and given.augment.get("views") == given.views)


def _said(augment: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in augment.items() if value) or "none"
