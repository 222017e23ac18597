"""Teachers' answers, kept: each is computed once for a view of an image, and read by every later epoch and training.

An answer is the logits, and the pooled feature where a method reads it. A teacher's answers are one file (see
answers.py) in $KDCOMPRESS_TEACHER_CACHE, or ``teachers`` in the user's cache. Its name says all that decides them (see
identity.py): the weights, the images, the augmentation, the precision, PyTorch's version, and the bits of some answers
as this machine computes them.

Exact. A network's answer to an image does depend on the size of the batch, bit by bit: in fp32, fewer than 4 to 16 rows
a thread are computed in another way. So the teacher is always shown a whole batch: of the answers that are missing,
those of this step and then those that the next steps need, so that no answer is computed twice. On its place in the
batch and on the other images the answer must not depend. Where threads share a small batch unequally it does: that is
tried before the training, and a teacher whose answers do is not cached.

Where the disk is full the teacher runs as without it.

``fp16`` rounds answers that are computed in fp32 to 11 bits: off by at most 2^-11 = 0.05 %, in the training that
computes them too, so that it is no matter which one that was. Of a vgg8's 1,024 answers to Fashion-MNIST (logits up to
14.6) the worst was off by 0.0039 and the mean by 0.0005; no class changed, and the loss of kd by 3e-7 of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcompress.console import say
from kdcompress.data.loader import Loader
from kdcompress.methods.base import Method
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment, Train
from kdcompress.training.answers import SUFFIX, Answers, folder, make_room
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.identity import identity, probe

CACHEABLE = {"logits", "pooled"}
LOOK_AHEAD = 64  # batches


class Kept:
    """A teacher with its answers. ``parts``: (name, width, dtype) of each tensor of an answer."""

    def __init__(self, teach: Callable[[Tensor], Taps], probe: Taps, half: bool):
        self.teach, self.classifier = teach, probe.classifier
        tensors = {name: tensor for name in sorted(CACHEABLE) if (tensor := getattr(probe, name)) is not None}
        self.parts = [(name, tensor.shape[1], tensor.dtype) for name, tensor in tensors.items()]
        self.stored = [torch.float16 if half and dtype == torch.float32 else dtype for _, _, dtype in self.parts]
        self.names = list(tensors)
        self.layout = [*map(str, self.parts), *map(str, self.stored)]
        self.widths = [width * dtype.itemsize for (_, width, _), dtype in zip(self.parts, self.stored)]
        self.answers: Answers | None = None  # None: they could not be kept
        self.coming: list[tuple[np.ndarray, Tensor, Any]] = []  # on their way from the device

    def open(self, path: Path, rows: int) -> None:
        self.answers = Answers(path, rows, sum(self.widths))

    def packed(self, taps: Taps) -> Tensor:
        """uint8 [N, bytes of an answer]."""
        tensors = (getattr(taps, name) for name in self.names)
        stored = (_narrowed(tensor, dtype).contiguous() for tensor, dtype in zip(tensors, self.stored))
        return torch.cat([tensor.view(torch.uint8) for tensor in stored], 1)

    def unpacked(self, packed: Tensor) -> Taps:
        found: dict[str, Any] = {"pooled": None}
        for (name, _, dtype), stored, chunk in zip(self.parts, self.stored, packed.split(self.widths, 1)):
            found[name] = chunk.contiguous().view(stored).to(dtype)
        return Taps(stages=[], classifier=self.classifier, **found)

    def keep(self, rows: np.ndarray, packed: Tensor) -> None:
        if packed.device.type == "cuda":
            host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True).copy_(packed, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self.coming.append((rows, host, event))
        else:
            self._write(rows, packed.cpu())

    def settle(self) -> None:
        """The answers of earlier steps are there: on a GPU this waits for the teacher's part of the step before, while
        the student's is still to be done."""
        for rows, host, event in self.coming:
            event.synchronize()
            self._write(rows, host)
        self.coming.clear()

    def _write(self, rows: np.ndarray, packed: Tensor) -> None:
        self._safely(lambda answers: answers.write(rows, packed.numpy()))

    def flush(self) -> None:
        self.settle()
        self._safely(Answers.flush)

    def _safely(self, action: Callable[[Answers], None]) -> None:
        if self.answers is not None:
            try:
                action(self.answers)
            except OSError as error:
                self.answers = None
                say(f"teacher's answers: no longer kept, {error.strerror or error}", style="yellow")


class TeacherCache:
    """The answers of all teachers of one training. ``hits`` and ``misses`` count answers: read, and computed."""

    def __init__(self, loader: Loader, kept: list[Kept], mode: str):
        self.loader, self.kept, self.mode = loader, kept, mode
        self.hits = self.misses = 0

    def answers(self, step: int, x: Tensor) -> list[Taps]:
        """What the teachers answer to ``x``, the loader's batch of a step."""
        keys = self.loader.keys(step)
        return [self._of(kept, keys, step, x) for kept in self.kept]

    def _of(self, kept: Kept, keys: np.ndarray, step: int, x: Tensor) -> Taps:
        kept.settle()
        answers = kept.answers
        known = answers.known(keys) if answers is not None else np.zeros(len(keys), bool)
        self.hits += int(known.sum())
        if answers is None or not known.any():
            return kept.unpacked(self._computed(kept, keys, x))
        found = self._on_device(answers.read(keys))
        if not known.all():
            wanted = self._wanted(answers, keys, keys[~known], step)
            made = self._computed(kept, wanted, self.loader.make(wanted))
            order = np.argsort(wanted, kind="stable")
            place = order[np.searchsorted(wanted, keys[~known], sorter=order)]
            found.index_copy_(0, self._on_device(np.flatnonzero(~known)), made[self._on_device(place)])
        return kept.unpacked(found)

    def _computed(self, kept: Kept, keys: np.ndarray, x: Tensor) -> Tensor:
        self.misses += len(keys)
        made = kept.packed(kept.teach(x))
        kept.keep(keys, made)
        return made

    def _wanted(self, answers: Answers, keys: np.ndarray, missing: np.ndarray, step: int) -> np.ndarray:
        """A whole batch for the teacher: what is missing now, then what will be, then anything."""
        later = self.loader.keys(step, LOOK_AHEAD)[len(keys) :]
        later = later[~answers.known(later)][: 2 * len(keys)]
        pool = np.concatenate([missing, later, keys])
        first = np.sort(np.unique(pool, return_index=True)[1])
        return np.resize(pool[first], len(keys))

    def _on_device(self, values: np.ndarray) -> Tensor:
        tensor, device = torch.from_numpy(values), self.loader.device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    def flush(self) -> None:
        """Everything computed so far is there for other processes, and after a kill."""
        for kept in self.kept:
            kept.flush()

    def record(self) -> dict[str, Any]:
        files = [kept.answers for kept in self.kept if kept.answers is not None]
        return {
            "kept": self.mode if files else "no longer",
            "views": self.loader.slots,
            "hits": self.hits,
            "misses": self.misses,
            "bytes": sum(file.bytes() for file in files),
            "known": known_share(files),
        }


def joined(answers: list[list[Taps]]) -> list[Taps]:
    """The teachers' answers to all images of a batch, of those to its parts."""
    if len(answers) == 1:
        return answers[0]

    def both(parts: Sequence[Taps]) -> Taps:
        pooled = [taps.pooled for taps in parts if taps.pooled is not None]
        return replace(
            parts[0], logits=torch.cat([taps.logits for taps in parts]), pooled=torch.cat(pooled) if pooled else None
        )

    return [both(parts) for parts in zip(*answers, strict=True)]


def joined_records(caches: list[TeacherCache]) -> dict[str, Any]:
    first, *others = (cache.record() for cache in caches)
    return first | ({"unlabelled": others[0]} if others else {})


def known_share(files: list[Answers]) -> float:
    return sum(int(np.count_nonzero(file.sums)) for file in files) / max(1, sum(file.rows for file in files))


def open_cache(
    distillation: Distillation,
    loader: Loader,
    source_hash: str,
    augment: Augment,
    options: Train,
    precision: str,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    talks: bool = True,
) -> tuple[TeacherCache | None, dict[str, Any]]:
    """The cache of a training's teachers and its record; or None and why there is none.

    The teachers run under ``autocast()``, as in the training. One line is said where ``talks``.
    """
    if not distillation.teachers:
        return None, {}
    why = "train.teacher_cache is off" if options.teacher_cache == "off" else not_cacheable(distillation, augment)
    cache = None
    if not why:
        cache, why = _opened(distillation, loader, source_hash, augment, options, precision, autocast, talks)
        if talks and cache is None:
            say(f"teacher's answers: not kept, {why}", style="dim")
    if cache is None:
        return None, {"kept": "no", "why": why}
    if talks:
        files = [kept.answers for kept in cache.kept if kept.answers is not None]
        views = f"{loader.slots:,} view" + ("s" if loader.slots > 1 else "")
        size, known = sum(file.rows * file.width for file in files) / 1e6, 100 * known_share(files)
        say(f"teacher's answers: {len(loader):,} x {views}, {size:,.1f} MB, {known:.3g} % known", style="dim")
    return cache, cache.record()


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
) -> tuple[TeacherCache | None, str]:
    def teach(member: Member, x: Tensor, counts: bool = True) -> Taps:
        with torch.no_grad(), autocast():
            taps = member(x)
        distillation.teacher_passes += len(x) * counts
        return taps

    kept: list[Kept] = []
    paths: list[Path] = []
    rows = len(loader) * loader.slots
    for member in distillation.teachers:
        probes, independent = probe(partial(teach, member, counts=False), loader)
        if not independent:
            return None, "they depend on the rest of the batch"
        kept.append(Kept(partial(teach, member), probes[0], options.teacher_cache == "fp16"))
        made = identity(member, source_hash, augment, precision, kept[-1].names, kept[-1].layout, probes)
        paths.append(folder() / f"{made}{SUFFIX}")

    needed, limit = sum(rows * sum(each.widths) for each in kept), options.teacher_cache_gib * 2**30
    if needed > limit:
        fewer = "" if loader.slots == 1 else "; data.augment.views=16 gives each image fewer views"
        got = f"{len(loader):,} x {loader.slots:,} of them are {needed / 2**30:,.1f} GiB"
        return None, f"{got}, more than train.teacher_cache_gib{fewer}"
    try:
        if talks:
            make_room(limit - needed, paths)
        for each, path in zip(kept, paths):
            each.open(path, rows)
        there = sum(each.answers.bytes() for each in kept if each.answers)
        if (free := shutil.disk_usage(folder()).free) < needed - there:
            return None, f"they may take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} are free in {folder()}"
    except OSError as error:
        return None, f"{folder()} cannot be written ({error.strerror or error})"
    return TeacherCache(loader, kept, options.teacher_cache), ""


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype != torch.float16:
        return tensor.to(dtype)
    largest = torch.finfo(dtype).max
    return tensor.clamp(-largest, largest).to(dtype)
