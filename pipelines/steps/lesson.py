"""After each group of a lifelong learning: which images are kept of its classes, and how much the network knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress.data.groups import check_exemplars
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.methods.base import Needs
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.parts import Lesson, Role
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.answers import outputs_to
from kdcompress.pipelines.steps.names import StepName, learnt, of_exemplars, trained, weights_of
from kdcompress.tasks import tasks
from kdcompress.training.exemplars import class_means, features_of, herding

EXEMPLARS = "exemplars.npy"
MEANS = "means.npy"


def lesson_of(networks: Networks, role: Role) -> Lesson:
    lesson = networks.parts[role].lesson
    assert lesson is not None  # only such roles have these steps
    return lesson


def check_groups(networks: Networks) -> None:
    """That classes can be learnt in these groups, with so many exemplars: all else looks at their images."""
    lifelong = networks.recipe.lifelong
    if lifelong is None:
        return
    if not networks.task.takes(Needs(one_label=True)):
        raise UsageError(
            "Classes are learnt in groups where each image is of one class.",
            where="lifelong",
            got=f"task: {networks.task.name}",
            hint="leave lifelong out",
        )
    networks.task.check(networks.source.test.truth, networks.source.name)
    check_exemplars(networks.source, lifelong.exemplars)
    if kept := [name for name in networks.recipe.method if name in methods and methods[name].deploy == "keep"]:
        hint = "take lwf, or a method on features that leaves the network as it is"
        raise UsageError(
            f"{kept[0]} ships more than the network, which the next group would not start from.", hint=hint
        )


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class ExemplarsStep(Step):
    """Of the classes that a network has just learnt, by its features; those of earlier classes stay as they were chosen
    then, for no other images of them are there any more."""

    networks: Networks
    role: Role

    @property
    def name(self) -> StepName:
        return of_exemplars(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        start = lesson_of(self.networks, self.role).start
        return (trained(self.role), *([of_exemplars(start)] if start else []))

    def key(self, inputs: Inputs) -> Key:
        hashes = {"data": self.networks.source_of(self.role).hash}
        hashes |= {str(name): inputs[name].hash for name in self.after}
        return Key({"exemplars": lesson_of(self.networks, self.role).exemplars}, hashes, ("torch",))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """``EXEMPLARS``, places in the training split, int64 [classes so far, exemplars], of each class the most
        important first; ``MEANS`` of their features, float64 [classes so far, D]."""
        networks, role, lesson = self.networks, self.role, lesson_of(self.networks, self.role)
        train, whole = networks.source.train, networks.source_of(role)
        kept = [np.load(inputs[of_exemplars(lesson.start)].folder / EXEMPLARS)] if lesson.start else []
        known, classes = sum(map(len, kept)), len(whole.labels)
        member = networks.with_features(role, networks.network(role, weights_of(inputs)))
        chosen = []
        for number in range(known, classes):
            rows = np.flatnonzero(train.truth == number)
            chosen.append(rows[herding(features_of(member, train.take(rows), device()), lesson.exemplars)])
        exemplars = np.concatenate([*kept, np.stack(chosen)])
        split = train.take(exemplars.ravel())
        means = class_means(features_of(member, split, device()), split.truth, classes)
        np.save(folder / EXEMPLARS, exemplars)
        np.save(folder / MEANS, means)
        return {"images": exemplars.size, "classes": classes}


@dataclass(frozen=True)
class LearntStep(Step):
    """The network on the test images of all classes that it has learnt by then; every one of them may be its answer."""

    networks: Networks
    role: Role

    @property
    def name(self) -> StepName:
        return learnt(self.role)

    @property
    def after(self) -> tuple[StepName, ...]:
        kept = lesson_of(self.networks, self.role).exemplars
        return (trained(self.role), *([of_exemplars(self.role)] if kept else []))

    def key(self, inputs: Inputs) -> Key:
        hashes = {"data": self.networks.source_of(self.role).hash}
        return Key({}, hashes | {str(name): inputs[name].hash for name in self.after}, ("torch",))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        """Shares of the images that are answered rightly, in per cent: of the old classes, of the new ones and of all;
        by the logits, and by the nearest mean of the exemplars where some are kept."""
        networks, role, lesson = self.networks, self.role, lesson_of(self.networks, self.role)
        source, task = networks.source_of(role), tasks[networks.recipe.task]
        new = networks.sources.sizes[lesson.group]
        net = networks.network(role, weights_of(inputs))
        answers = task.answers(outputs_to(networks, role, net, source.test))
        found = {"classes": list(source.labels[-new:]), "n": len(source.test)}
        found |= shares(task.by_label(answers, source.test.truth, source.labels), new)
        if lesson.exemplars:
            means = np.load(inputs[of_exemplars(role)].folder / MEANS)
            nearest = (features_of(networks.with_features(role, net), source.test, device()) @ means.T).argmax(1)
            found["nearest"] = shares(task.by_label(nearest, source.test.truth, source.labels), new)
        return found


def shares(rows: Sequence[dict[str, Any]], new: int) -> dict[str, float | None]:
    """Of the images of the old classes, of the ``new`` last ones and of all, the share that is answered rightly, in per
    cent, by what a task says of each class; None where there is no image."""

    def share(some: Sequence[dict[str, Any]]) -> float | None:
        images = sum(row["n"] for row in some)
        return sum(row["n"] * row["recall"] for row in some if row["n"]) / images if images else None

    return {"old": share(rows[:-new]), "new": share(rows[-new:]), "all": share(rows)}
