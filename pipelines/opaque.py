"""A recipe's black-box teachers: a model file that runs in its own runtime, or a file of answers."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress.artifact import Artifact, InputSpec, sha256
from kdcompress.console import say_once
from kdcompress.data.given import GivenAnswers, digests, read_answers
from kdcompress.data.labels import Matched, match_labels
from kdcompress.data.source import read
from kdcompress.data.splits import Source
from kdcompress.data.unlabelled import listed, of_size
from kdcompress.errors import UsageError
from kdcompress.export.apart import tried
from kdcompress.export.describe import recorded
from kdcompress.export.external_data import check_whole
from kdcompress.export.foreign import any_artifact_of
from kdcompress.export.formats import open_runner
from kdcompress.models.opaque import FileTeacher, GivenTeacher, Gives, Opaque
from kdcompress.pipelines.caches import imported
from kdcompress.recipe import Augment, Data, Recipe, Teacher
from kdcompress.recipe.training import REST, TARGETS
from kdcompress.tasks import tasks
from kdcompress.training.given import check_views, rows_of
from kdcompress.training.needs import one_distribution
from kdcompress.untrusted import existing

LOOKED_AT = 16  # images, for what a file gives


def opaque(network: Teacher, recipe: Recipe, source: Source) -> Opaque:
    """The teacher, its classes matched with the source's by name.

    Raises UsageError for a task without logits of whole images, for a file that cannot be one, and for other classes.
    """
    task = tasks[recipe.task]
    if task.truth != "labels":
        raise UsageError(
            "A black-box teacher has answers to whole images alone.",
            where="teacher",
            got=f"task: {task.name}",
            allowed=", ".join(name for name, each in tasks.entries().items() if each.truth == "labels"),
        )
    return _answers(network, recipe, source) if network.answers else _file(network, recipe, source)


# A model file


def artifact_of_file(network: Teacher) -> Artifact:
    """Of a file that is not kdcompress's own, the first output is taken for what it answers, and its classes have
    numbers for names."""
    assert network.file is not None
    path = network.file.expanduser()
    return _artifact(path, _stamp(existing(path)))


@lru_cache(8)
def _artifact(path: Path, _: Any) -> Artifact:
    artifact = recorded(path) or tried(any_artifact_of, path)
    check_whole(path)
    open_runner(artifact)  # where it cannot run here this says so
    return artifact


def _stamp(path: Path) -> tuple[Any, ...]:
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return tuple((each.name, (stat := each.stat()).st_size, stat.st_mtime_ns) for each in files)


def _file(network: Teacher, recipe: Recipe, source: Source) -> FileTeacher:
    artifact = artifact_of_file(network)
    spec = artifact.input
    if spec.task != recipe.task and not from_elsewhere(spec):
        raise UsageError("The file is for another task.", where=network.file, got=spec.task, allowed=recipe.task)
    matched = match_labels(spec.labels, source.labels, network.file, source.name)
    _tell(matched)
    check_normalisation(network, spec)
    channels = source.train.images.shape[-1]
    if {channels, spec.channels} - {1, 3} and channels != spec.channels:
        raise UsageError(
            "The file takes images of other channels.", where=network.file, got=channels, allowed=spec.channels
        )
    start = partial(open_runner, artifact, threads=torch.get_num_threads())
    mean, std = (
        values * spec.channels if values and len(values) == 1 else values for values in (network.mean, network.std)
    )
    made = FileTeacher(start, spec, artifact.sha256, matched.numbers.tolist(), "logits", mean, std)
    shares = one_distribution(tasks[recipe.task], spec.classes)
    made.gives = network.gives or _gives(made, source, shares)
    if made.gives == "probabilities" and not shares:
        raise _no_distribution("teacher.gives", recipe.task)
    return made


def from_elsewhere(spec: InputSpec) -> bool:
    """Whether nothing is known of a file but its input and output (export/foreign.py)."""
    return spec.labels == tuple(map(str, range(spec.classes))) and not any(spec.mean) and set(spec.std) == {1.0}


def check_normalisation(network: Teacher, spec: InputSpec) -> None:
    """Raises UsageError where a file that takes numbers says nothing of what they are, and where ``mean`` and ``std``
    are given for one that normalises by itself."""
    numbers = from_elsewhere(spec) and not spec.layout.startswith("uint8")
    if numbers and network.mean is None:
        raise UsageError(
            "The file does not say how its input is normalised.",
            where=network.file,
            got=f"{spec.name}: {spec.layout}",
            hint="give teacher.mean and teacher.std: those of its training, `none` for pixels of 0..255, or 0 and 1 "
            "for pixels of 0..1",
        )
    if not numbers and network.mean is not None:
        raise UsageError("The file takes pixels as they are.", where="teacher.mean", hint="leave mean and std out")
    if network.mean is not None and len(network.mean) not in (1, spec.channels):
        raise UsageError(
            "The normalisation does not fit the file.",
            where="teacher.mean",
            got=f"{len(network.mean)} numbers",
            allowed=f"{spec.channels}, one per channel, or one for all",
        )


def _no_distribution(where: object, task: str) -> UsageError:
    return UsageError(
        "Probabilities are read where they add up to 1: of an image with one label.",
        where=where,
        got=f"task: {task}",
        allowed="logits",
    )


def _gives(made: FileTeacher, source: Source, shares: bool) -> Gives:
    """What the file gives for a few images: probabilities that add up to 1, where answers are (``shares``), or
    logits."""
    images = torch.from_numpy(source.train.images[:LOOKED_AT]).permute(0, 3, 1, 2)
    found = made.answers(images)
    if found.shape != (len(images), len(made.order)) or not found.isfinite().all():
        raise UsageError(
            "The file does not give one finite number per class.",
            where="teacher.file",
            got=f"an output {list(found.shape)}",
            allowed=f"[{len(images)}, {len(made.order)}]",
        )
    alike = bool((found >= 0).all()) and bool(((found.sum(1) - 1).abs() < 1e-3).all())
    if alike and shares:
        say_once("teacher: the file gives probabilities; their logarithms are taken for logits", "dim")
        return "probabilities"
    return "logits"


# Answers


def _answers(network: Teacher, recipe: Recipe, source: Source) -> GivenTeacher:
    assert network.answers is not None
    path = answers_path(network.answers)
    given = hashed(read_answers(path, source.labels), recipe.data, source, recipe.task)
    matched = match_labels(given.labels or source.labels, source.labels, path, source.name)
    if "logits" not in given.arrays and not one_distribution(tasks[recipe.task], given.classes):
        raise _no_distribution(path, recipe.task)
    if given.classes != len(source.labels):
        got, allowed = f"answers of {given.classes:,} classes", f"{len(source.labels):,}, those of {source.name}"
        raise UsageError("The answers are not to the classes of the data.", where=path, got=got, allowed=allowed)
    _tell(matched)
    return GivenTeacher(given, matched.numbers.tolist(), sha256(path))


def answers_path(path: Path) -> Path:
    """The file, or what was imported by that name."""
    found = path.expanduser()
    if not found.is_file() and (kept := imported().get(str(path))):
        os.utime(kept)  # used now
        return kept
    return found


@lru_cache(4)
def _hashed(given: GivenAnswers, data: Data, task: str, channels: tuple[int, ...]) -> GivenAnswers:
    """With the hashes of images for their paths."""
    keys = np.zeros((len(given.keys), 32), np.uint8)
    raw = read(data, tasks[task].truth)
    root = data.root.expanduser() if data.root else Path(raw.origin)
    sets = [([_named(str(file), root) for file in raw.files[: len(raw.train)]], raw.train.images)]
    if data.unlabelled == TARGETS and raw.targets is not None:
        sets.append(([_named(str(file), root) for file in raw.files[-len(raw.targets) :]], raw.targets))
    elif data.unlabelled and data.unlabelled != REST:
        folder = Path(data.unlabelled).expanduser()
        files, _ = listed(folder)
        images = of_size(files, folder, data, channels)
        sets.append(([_named(str(file), folder) for file in files], images))
    for names, images in sets:
        if names:
            places = given.places(np.array(names))
            keys[places[places >= 0]] = digests(images)[places >= 0]
    if not keys.any():
        raise UsageError(
            "None of the images has an answer.",
            where=given.path,
            got=f"paths such as {given.keys[0]}",
            allowed=f"paths such as {sets[0][0][0]}" if sets[0][0] else "sha256: these data have no files of their own",
        )
    return replace(given, keys=keys)


def hashed(given: GivenAnswers, data: Data, source: Source, task: str) -> GivenAnswers:
    return _hashed(given, data, task, tuple(source.train.images.shape[1:])) if given.by_path else given


def _named(path: str, root: Path) -> str:
    part = Path(path)
    return part.relative_to(root).as_posix() if part.is_relative_to(root) else path


def check_answers(teacher: GivenTeacher, augment: Augment, source: Source, slots: int) -> None:
    """Raises UsageError where the answers are not those that a training on ``source`` would read, in so many ``slots``
    of views."""
    check_views(teacher.given, augment, slots)
    rows_of(teacher.given, source.train.images)
    if source.unlabelled:
        rows_of(teacher.given, source.unlabelled.images)


def right_share(teacher: GivenTeacher, source: Source) -> float | None:
    """Per cent of the training images whose answer is their label; None of a truth that is not one."""
    if source.train.truth.ndim > 1 or teacher.given.augment is not None and teacher.given.views > 1:
        return None
    found = teacher.given.logits(rows_of(teacher.given, source.train.images) * teacher.given.views)
    return 100 * float(np.mean(found[:, teacher.order].argmax(1) == source.train.truth))


def _tell(matched: Matched) -> None:
    if matched.note:
        say_once(f"teacher: {matched.note}", "yellow")
