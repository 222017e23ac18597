"""The images of a recipe, each set of them read when it is first asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from kdcompress.data import groups
from kdcompress.data.shown import shown_to
from kdcompress.data.source import load, load_parts
from kdcompress.data.splits import Source
from kdcompress.data.unlabelled import load_unlabelled, without_labels
from kdcompress.pipelines.parts import Part
from kdcompress.recipe import Data, Input, Lifelong
from kdcompress.recipe.training import REST
from kdcompress.tasks import tasks


class Sources:
    """Runs of one recipe's data share one. A process that it is sent to reads its own. ``task``: the recipe's,
    which says what kind of truth is read where a source has several. ``lifelong``: classes are in the order in which
    they are learnt."""

    def __init__(self, data: Data, task: str = "classification", lifelong: Lifelong | None = None):
        self.data, self.task, self.lifelong = data, task, lifelong
        self._learning: dict[int, Source] = {}
        self._private: dict[int, list[Source]] = {}
        self._shown: dict[Input, Sources] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Sources, (self.data, self.task, self.lifelong)

    @property
    def _truth(self) -> str:
        return tasks[self.task].truth

    @cached_property
    def main(self) -> Source:
        """What the student is trained and every file is judged on."""
        source = load(self.data, self._truth)
        if self.lifelong:
            return groups.in_order(source, groups.numbered(self.lifelong.groups, source.labels))
        return replace(source, unlabelled=load_unlabelled(self.data, source, self._truth))

    @cached_property
    def whole(self) -> Source:
        """With every training image: what a teacher may be trained on where the student has few."""
        return load(self.data.model_copy(update={"train_images": None, "unlabelled": None}), self._truth)

    @cached_property
    def without_labels(self) -> Source:
        """What a pre-training has: every image that the student's training has, and none of its labels. With all that
        there are it is the same one, however few of them have a label."""
        return without_labels(self.whole if self.data.unlabelled == REST else self.main)

    def shown(self, asked: Input) -> Sources:
        """The same images as a teacher with this input sees them."""
        if asked not in self._shown:
            self._shown[asked] = Shown(self, asked)
        return self._shown[asked]

    def private(self, count: int) -> list[Source]:
        """The private images in ``count`` parts, one for each teacher that is trained."""
        if count not in self._private:
            self._private[count] = load_parts(self.data, count, self._truth)
        return self._private[count]

    @property
    def sizes(self) -> list[int]:
        """Of the groups, in classes: those of ``main`` are in their order, and their names are known to be right."""
        assert self.lifelong is not None
        return [len(each) for each in groups.numbered(self.lifelong.groups, self.main.labels)]

    def learning(self, group: int, exemplars: np.ndarray | None = None) -> Source:
        """What is seen when a group is learnt, with the exemplars of the earlier ones where they are known."""
        if exemplars is not None:
            return groups.learning(self.main, self.sizes, group, exemplars)
        if group not in self._learning:
            self._learning[group] = groups.learning(self.main, self.sizes, group)
        return self._learning[group]

    def of(self, part: Part) -> Source:
        """What a network is trained on; one that learns a group, but for exemplars."""
        if part.lesson:
            return self.learning(part.lesson.group)
        if part.private:
            index, count = part.private
            return self.private(count)[index]
        return self.whole if part.all_images and self.data.train_images is not None else self.main

    @property
    def images(self) -> np.ndarray:
        """Test images for the clock, uint8 [at most 1024, H, W, C]."""
        return self.main.test.images[:1024]


class Shown(Sources):
    """Those that ``of`` has, as a teacher with the input ``asked`` sees them."""

    def __init__(self, of: Sources, asked: Input):
        super().__init__(of.data, of.task)
        self.student, self.asked = of, asked

    def __reduce__(self) -> tuple[Any, ...]:
        return Shown, (self.student, self.asked)

    @cached_property
    def main(self) -> Source:
        return shown_to(self.asked, self.data, self.student.main, self._truth)

    @cached_property
    def whole(self) -> Source:
        return shown_to(self.asked, self.data, self.student.whole, self._truth)
