"""The cache of a training's teachers, opened: whether their answers can be kept, where, and why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcompress.console import say
from kdcompress.data.about import describe
from kdcompress.data.loader import Loader
from kdcompress.errors import UsageError
from kdcompress.methods.base import Method
from kdcompress.models.opaque import GivenTeacher
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment, Train
from kdcompress.training.answers import SUFFIX, folder, make_room
from kdcompress.training.cache import TeacherCache, known_share
from kdcompress.training.compiling import GRAPHS
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.given import Given
from kdcompress.training.identity import identity, probe
from kdcompress.training.keeping import CACHEABLE, Kept
from kdcompress.training.needs import one_distribution


def open_cache(
    distillation: Distillation,
    loader: Loader,
    source_hash: str,
    augment: Augment,
    options: Train,
    precision: str,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    talks: bool = True,
    data: str = "",
) -> tuple[TeacherCache | None, dict[str, Any]]:
    """The cache of a training's teachers and its record; or None and why there is none.

    The teachers run under ``autocast()``, as in the training. One line is said where ``talks``. ``data``: what the
    images are called, in a list of what is kept. Raises UsageError as ``check_cacheable`` does, and where a file of
    answers has none to some image.
    """
    if not distillation.teachers:
        return None, {}
    check_cacheable(distillation, augment, options)
    off = options.teacher_cache == "off"
    why = "train.teacher_cache is off" if off else not_cacheable(distillation, augment)
    cache = None
    if not why or asked_for(distillation, options):
        cache, why = _opened(distillation, loader, source_hash, augment, options, precision, autocast, talks, data)
        if talks and why and not off:
            say(f"teacher's answers: not kept, {why}", style="dim")
    if cache is None:
        return None, {"kept": "no", "why": why}
    if talks:
        _tell(cache)
    return cache, cache.record()


def asked_for(distillation: Distillation, options: Train) -> str:
    """What a training cannot do without reading answers as they are kept; "" where it can."""
    if any(isinstance(teacher.net, GivenTeacher) for teacher in distillation.teachers):
        return "teacher.answers"
    return "train.teacher_cache_top" if options.teacher_cache_top and distillation.teachers else ""


def check_cacheable(distillation: Distillation, augment: Augment, options: Train) -> None:
    """Raises UsageError where answers have to be read as they are kept, and cannot be."""
    if not (asked := asked_for(distillation, options)):
        return
    if why := not_cacheable(distillation, augment):
        hint = f"leave {asked} out" if asked != "teacher.answers" else "a teacher that can run: a network, or a file"
        raise UsageError("The teacher's answers cannot be read: it would have to run.", where=asked, got=why, hint=hint)
    top = options.teacher_cache_top
    for teacher in distillation.teachers if top else ():
        classes = teacher.tapped.shapes.classes
        task = distillation.task
        if task is None or not one_distribution(task, classes):
            raise UsageError(
                "The largest probabilities are kept of answers that name one class.",
                where="train.teacher_cache_top",
                got=f"task: {task.name}" if task else "features",
                hint="leave train.teacher_cache_top out; train.teacher_cache=fp16 takes half the bytes",
            )
        if top is not None and top >= classes:
            raise UsageError(
                "There are no more classes than probabilities that are to be kept.",
                where="train.teacher_cache_top",
                got=top,
                allowed=f"1 to {classes - 1}",
            )


def not_cacheable(distillation: Distillation, augment: Augment) -> str:
    """Why a teacher has to run; "" where its kept answers will do."""
    if augment.mixes:
        return f"{augment.mixes} makes new images at every step"
    for name, method in distillation.auxiliary().items():
        if maps := method.needs.of("teacher") - CACHEABLE:
            return f"{name} reads the teacher's {' and '.join(sorted(maps))}"
        if any(teacher.tapped.shapes.places > 1 for teacher in distillation.teachers):
            return f"{name} reads answers to many places of each image"
        if type(method).prepare is not Method.prepare:
            return f"{name} makes images of its own"
        if method.private:
            return f"{name} keeps them secret"
    return ""


def _opened(
    distillation: Distillation,
    loader: Loader,
    source_hash: str,
    augment: Augment,
    options: Train,
    precision: str,
    autocast: Callable[[], AbstractContextManager[Any]],
    talks: bool,
    data: str,
) -> tuple[TeacherCache | None, str]:
    """Why there are no files is said; there is a cache all the same where answers have to be as they are kept."""

    def teach(member: Member, x: Tensor, counts: bool = True) -> Taps:
        with torch.no_grad(), autocast():
            taps = member(x)
        if options.compile in GRAPHS:  # the next call writes over what this one gave
            pooled = None if taps.pooled is None else taps.pooled.clone()
            taps = replace(taps, logits=taps.logits.clone(), pooled=pooled)
        distillation.teacher_passes += len(x) * counts
        return taps

    teachers: list[Kept | Given] = []
    paths: list[Path] = []
    why = "train.teacher_cache is off" if options.teacher_cache == "off" else ""
    rows, must = len(loader) * loader.slots, asked_for(distillation, options)
    for member in distillation.teachers:
        if isinstance(member.net, GivenTeacher):
            teachers.append(Given(member.net, loader, augment))
            continue
        probes, independent = probe(partial(teach, member, counts=False), loader)
        if not independent:
            why = "they depend on the rest of the batch"
            if not must:
                return None, why
        top = options.teacher_cache_top
        kept = Kept(partial(teach, member), probes[0], options.teacher_cache == "fp16", top)
        teachers.append(kept)
        for taps in probes if top else ():
            kept.measure(taps, kept.packed(taps))
        made = identity(member, source_hash, augment, precision, kept.names, kept.layout, probes)
        paths.append(folder() / f"{made}{SUFFIX}")
        if talks:
            about = {"data": data, "teacher": type(member.net).__name__, "images": len(loader)}
            about |= {"views": loader.slots, "augment": augment.deciding(), "classes": member.tapped.shapes.classes}
            kept.about = about | {"top": top, "stored": kept.layout, "precision": precision, "source": source_hash}

    cache = TeacherCache(loader, teachers, options.teacher_cache)
    why = why or _files(cache, paths, options.teacher_cache_gib * 2**30, rows, talks)
    cache.why = why = why if cache.kept else ""
    return (cache if must or not why else None), why


def _files(cache: TeacherCache, paths: list[Path], limit: float, rows: int, talks: bool) -> str:
    """Opens a file for each teacher that runs. Why there can be none, or ""."""
    needed = sum(rows * sum(each.widths) for each in cache.kept)
    if needed > limit:
        fewer = "" if cache.loader.slots == 1 else "; data.augment.views=16 gives each image fewer views"
        got = f"{len(cache.loader):,} x {cache.loader.slots:,} of them are {needed / 2**30:,.1f} GiB"
        return f"{got}, more than train.teacher_cache_gib{fewer}"
    if not paths:
        return ""
    try:
        if talks:
            make_room(limit - needed, paths)
        for each, path in zip(cache.kept, paths):
            each.open(path, rows)
            if each.about:
                describe(path, each.about)
        there, free = sum(file.bytes() for file in cache.files), shutil.disk_usage(folder()).free
        why = f"they may take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} are free in {folder()}"
        why = why if free < needed - there else ""
    except OSError as error:
        why = f"{folder()} cannot be written ({error.strerror or error})"
    for each in cache.kept if why else ():
        each.answers = None
    return why


def _tell(cache: TeacherCache) -> None:
    loader, files = cache.loader, cache.files
    views = f"{len(loader):,} x {loader.slots:,} view" + ("s" if loader.slots > 1 else "")
    if files:
        size, known = sum(file.rows * file.width for file in files) / 1e6, 100 * known_share(files)
        say(f"teacher's answers: {views}, {size:,.1f} MB, {known:.3g} % known", style="dim")
    if len(cache.kept) < len(cache.teachers):
        say(f"teacher's answers: {views}, read from the file that the recipe gives", style="dim")
    for told in cache.told():
        say(f"teacher's answers: {told}", style="dim")
