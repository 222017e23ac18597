"""Teachers' answers, kept: each is computed once for a view of an image, and read by every later epoch and training.

An answer is the logits, and the pooled feature where a method reads it. A teacher's answers are one file in
$KDCOMPRESS_TEACHER_CACHE, or ``teachers`` in the user's cache: a checksum (CRC-32) for each view of each image, 0 where
its answer is not there, then the answers. The file's name is the hash of all that decides them (``identity``): the
weights, the images, the augmentation, the precision, PyTorch's version, and the bits of some answers as this machine
computes them. Folder and files are the user's alone.

Exact. A network's answer to an image does depend on the size of the batch, bit by bit: in fp32, fewer than 4 to 16 rows
a thread are computed in another way. So the teacher is always shown a whole batch: of the answers that are missing,
those of this step and then those that the next steps need, so that no answer is computed twice. On its place in the
batch and on the other images the answer must not depend. Where threads share a small batch unequally it does: that is
tried before the training, and a teacher whose answers do is not cached.

Answers are on the disk before their checksums, and nothing else is ever written: a killed process, or several that fill
one file at once, leave nothing that is wrong. An answer is there when it is what its checksum says, which is looked at
when a process reads it for the first time (about 0.5 us and 1 GB/s): a damaged one is computed again. Where the disk is
full the teacher runs as without it.

``fp16`` rounds answers that are computed in fp32 to 11 bits: off by at most 2^-11 = 0.05 %, in the training that
computes them too, so that it is no matter which one that was. Of a vgg8's 1,024 answers to Fashion-MNIST (logits up to
14.6) the worst was off by 0.0039 and the mean by 0.0005; no class changed, and the loss of kd by 3e-7 of it.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import re
import shutil
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcompress.artifact import content_hash, open_private, private_folder, user_cache
from kdcompress.console import say
from kdcompress.data.loader import Loader
from kdcompress.methods.base import Method
from kdcompress.models.taps import Taps
from kdcompress.recipe import Augment, Train
from kdcompress.training.distillation import Distillation, Member

CACHEABLE = {"logits", "pooled"}
LOOK_AHEAD = 64  # batches
PROBED = 64  # answers that show how this machine computes them
SUFFIX = ".answers"
NAME = "[0-9a-f]" * 64 + SUFFIX  # of what is kept: nothing else in the folder is touched


def folder() -> Path:
    return Path(os.environ.get("KDCOMPRESS_TEACHER_CACHE") or user_cache() / "teachers")


class Answers:
    """A file of ``rows`` answers of ``width`` bytes each. Raises OSError where there can be none."""

    def __init__(self, path: Path, rows: int, width: int):
        self.path, self.rows, self.width = path, rows, width
        private_folder(path.parent)
        self.start = -(-4 * rows // mmap.PAGESIZE) * mmap.PAGESIZE
        size = self.start + rows * width
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        if (there := os.fstat(descriptor).st_size) not in (0, size):
            say(f"teacher's answers: {path} is damaged, {there:,} bytes of {size:,}, and is made again", style="yellow")
            os.close(descriptor)
            path.unlink(missing_ok=True)  # whoever has it open keeps it
            descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        self.file = os.fdopen(descriptor, "r+b", buffering=0)  # closed with this object
        os.truncate(descriptor, size)  # sparse: what is not written takes no place
        os.utime(descriptor)
        # Read through the map, written by pwrite: a write into a map of a full disk ends the process.
        memory = np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)
        self.sums, self.values = memory[: 4 * rows].view("<u4"), memory[self.start :].reshape(rows, width)
        self.sound = np.zeros(rows, bool)  # written by this process, or checked
        self.written = np.zeros(rows, bool)  # by this process, and without its checksum yet
        self.damaged = False

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Whether the answers ``rows`` are there and whole, bool [len(rows)]."""
        new = rows[~self.sound[rows]]
        new = new[self.sums[new] != 0]
        if len(new):
            self.sound[new] = self.sums[new] == _sums(new, self.values[new])
            if not self.damaged and not self.sound[new].all():
                self.damaged = True
                say(f"teacher's answers: {self.path} is damaged, what is wrong is computed again", style="yellow")
        return self.sound[rows]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [len(rows), width], a copy."""
        return self.values[rows]

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        for part in _runs(rows, order := np.argsort(rows, kind="stable")):
            self._put(self.start + int(rows[order[part.start]]) * self.width, values[order[part]].tobytes())
        self.written[rows] = self.sound[rows] = True

    def flush(self) -> None:
        """What was written gets its checksums, by which other processes and later ones know it."""
        rows = np.flatnonzero(self.written)
        if len(rows):
            os.fsync(self.file.fileno())
            sums = _sums(rows, self.values[rows])
            for part in _runs(rows, np.arange(len(rows))):
                self._put(4 * int(rows[part.start]), sums[part].tobytes())
            self.written[rows] = False

    def _put(self, offset: int, data: bytes) -> None:
        while data:  # a full disk takes a part before it raises
            done = os.pwrite(self.file.fileno(), data, offset)
            data, offset = data[done:], offset + done

    def bytes(self) -> int:
        """On the disk."""
        return os.fstat(self.file.fileno()).st_blocks * 512


def _sums(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The checksums of answers uint8 [N, width] in the rows int64 [N], each of its row and its bytes, uint32 [N]."""
    return np.array([zlib.crc32(value, row) or 1 for row, value in zip(rows.tolist(), values)], "<u4")


def _runs(rows: np.ndarray, order: np.ndarray) -> list[slice]:
    """Where in ``order``, which sorts ``rows``, numbers follow each other without a gap."""
    edges = np.flatnonzero(np.diff(rows[order]) != 1) + 1
    return [slice(a, b) for a, b in itertools.pairwise([0, *edges.tolist(), len(rows)])]


class Kept:
    """A teacher with its answers. ``parts``: (name, width, dtype) of each tensor of an answer."""

    def __init__(self, teach: Callable[[Tensor], Taps], probe: Taps, half: bool):
        self.teach, self.classifier = teach, probe.classifier
        tensors = {name: tensor for name in sorted(CACHEABLE) if (tensor := getattr(probe, name)) is not None}
        self.parts = [(name, tensor.shape[1], tensor.dtype) for name, tensor in tensors.items()]
        self.stored = [torch.float16 if half and dtype == torch.float32 else dtype for _, _, dtype in self.parts]
        self.widths = [width * dtype.itemsize for (_, width, _), dtype in zip(self.parts, self.stored)]
        self.answers: Answers | None = None  # None: they could not be kept
        self.coming: list[tuple[np.ndarray, Tensor, Any]] = []  # on their way from the device

    def open(self, path: Path, rows: int) -> None:
        self.answers = Answers(path, rows, sum(self.widths))

    def packed(self, taps: Taps) -> Tensor:
        """uint8 [N, bytes of an answer]."""
        tensors = (getattr(taps, name) for name, _, _ in self.parts)
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
    why = "train.teacher_cache is off" if options.teacher_cache == "off" else not_cacheable(distillation)
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


def not_cacheable(distillation: Distillation) -> str:
    """Why the methods need a teacher that runs; "" where its kept answers will do."""
    for name, method in distillation.auxiliary().items():
        if maps := method.needs.of("teacher") - CACHEABLE:
            return f"{name} reads the teacher's {' and '.join(sorted(maps))}"
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
        probes, independent = _probe(partial(teach, member, counts=False), loader)
        if not independent:
            return None, "they depend on the rest of the batch"
        kept.append(Kept(partial(teach, member), probes[0], options.teacher_cache == "fp16"))
        made = identity(member, source_hash, augment, precision, kept[-1], probes)
        paths.append(folder() / f"{made}{SUFFIX}")

    needed, limit = sum(rows * sum(each.widths) for each in kept), options.teacher_cache_gib * 2**30
    if needed > limit:
        fewer = "" if loader.slots == 1 else "; data.augment.views=16 gives each image fewer views"
        got = f"{len(loader):,} x {loader.slots:,} of them are {needed / 2**30:,.1f} GiB"
        return None, f"{got}, more than train.teacher_cache_gib{fewer}"
    try:
        if talks:
            _make_room(limit - needed, paths)
        for each, path in zip(kept, paths):
            each.open(path, rows)
        there = sum(each.answers.bytes() for each in kept if each.answers)
        if (free := shutil.disk_usage(folder()).free) < needed - there:
            return None, f"they may take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} are free in {folder()}"
    except OSError as error:
        return None, f"{folder()} cannot be written ({error.strerror or error})"
    return TeacherCache(loader, kept, options.teacher_cache), ""


def _probe(teach: Callable[[Tensor], Taps], loader: Loader) -> tuple[list[Taps], bool]:
    """The answers to a few views, always the same ones, in batches of the training's size; and whether an answer is the
    same, bit by bit, in another place of a batch and beside other images."""
    size = len(loader.keys(0))
    images = np.arange(-(-PROBED // size) * size) % len(loader)
    keys = images * loader.slots + 7 * images % loader.slots
    probes = [teach(loader.make(part)) for part in np.split(keys, len(keys) // size)]
    moved = keys[:size][::-1].copy()
    moved[1::2] = loader.keys(0)[1::2]  # the others stay
    again = teach(loader.make(moved))
    stay = torch.arange(0, size, 2)
    both = [(probes[0].logits, again.logits)]
    if probes[0].pooled is not None and again.pooled is not None:
        both.append((probes[0].pooled, again.pooled))
    return probes, all(torch.equal(before[size - 1 - stay], after[stay]) for before, after in both)


def identity(member: Member, source_hash: str, augment: Augment, precision: str, kept: Kept, probes: list[Taps]) -> str:
    """The hash of all that decides a teacher's answers. What cannot be named (the code of its layers, the libraries
    and instructions that compute them, the batch's size) shows in the bits of ``probes``."""
    digest = hashlib.sha256()
    for name, tensor in itertools.chain(member.named_parameters(), member.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bits(tensor))
    for part in (torch.cat([getattr(probe, name) for probe in probes]) for name, _, _ in kept.parts):
        digest.update(_bits(part[:PROBED]))
    return content_hash(
        {
            "version": 2,
            "teacher": digest.hexdigest(),
            "architecture": re.sub(" at 0x[0-9a-f]+", "", repr(member)),
            "size": member.size,
            "source": source_hash,
            "augment": augment.model_dump(),
            "precision": precision,
            "parts": [*map(str, kept.parts), *map(str, kept.stored)],
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(probes[0].logits.device) if probes[0].logits.is_cuda else "cpu",
        }
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype != torch.float16:
        return tensor.to(dtype)
    largest = torch.finfo(dtype).max
    return tensor.clamp(-largest, largest).to(dtype)


def _make_room(limit: float, own: list[Path]) -> None:
    """Answers that were not used for the longest time are removed until the rest take ``limit`` bytes. A training that
    uses them now goes on: its file is there until it ends."""
    others = [(path, path.lstat()) for path in folder().glob(NAME) if path not in own]
    taken = sum(stat.st_blocks * 512 for _, stat in others)
    for path, stat in sorted(others, key=lambda each: each[1].st_mtime):
        if taken <= limit:
            return
        path.unlink(missing_ok=True)
        taken -= stat.st_blocks * 512
