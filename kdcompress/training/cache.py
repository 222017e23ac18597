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

With ``teacher_cache_top`` the largest probabilities are kept and the rest is spread (see packing.py), in all trainings
that ask for it, where there is no room for a file too. How much that changes is measured on the answers.

A teacher that is a file of answers (see given.py) is read in the same place, and never runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcompress.data.batch import sent
from kdcompress.data.loader import Loader
from kdcompress.models.taps import Taps
from kdcompress.training.answers import Answers
from kdcompress.training.given import Given
from kdcompress.training.keeping import Kept

LOOK_AHEAD = 64  # batches


class TeacherCache:
    """The answers of all teachers of one training. ``hits`` and ``misses`` count answers: read, and computed. ``why``:
    why they are in no file, where that is so."""

    def __init__(self, loader: Loader, teachers: Sequence[Kept | Given], mode: str, why: str = ""):
        self.loader, self.teachers, self.mode, self.why = loader, list(teachers), mode, why
        self.hits = self.misses = 0

    @property
    def kept(self) -> list[Kept]:
        return [each for each in self.teachers if isinstance(each, Kept)]

    @property
    def files(self) -> list[Answers]:
        return [kept.answers for kept in self.kept if kept.answers is not None]

    def answers(self, step: int, x: Tensor | None) -> list[Taps]:
        """What the teachers answer to ``x``, the loader's batch of a step; None: it is made where it is needed."""
        keys = self.loader.keys(step)
        return [self._of(each, keys, step, x) for each in self.teachers]

    def _of(self, kept: Kept | Given, keys: np.ndarray, step: int, x: Tensor | None) -> Taps:
        if isinstance(kept, Given):
            self.hits += len(keys)
            return Taps(self._on_device(kept.logits(keys)), stages=[], pooled=None)
        kept.settle()
        answers = kept.answers
        known = answers.known(keys) if answers is not None else np.zeros(len(keys), bool)
        self.hits += int(known.sum())
        if answers is None or not known.any():
            return kept.unpacked(self._computed(kept, keys, self.loader.make(keys) if x is None else x))
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
        taps = kept.teach(x)
        made = kept.packed(taps)
        kept.measure(taps, made)
        kept.keep(keys, made)
        return made

    def complete(self, told: Callable[[int, int], None] = lambda done, all: None) -> None:
        """Computes what is missing of the answers to every view, in whole batches. ``told(done, all)`` after each."""
        size = len(self.loader.keys(0))
        for kept in self.kept:
            assert kept.answers is not None
            missing = np.flatnonzero(~kept.answers.known(np.arange(kept.answers.rows)))
            for start in range(0, len(missing), size):
                keys = np.resize(missing[start : start + size], size)
                kept.settle()
                self._computed(kept, keys, self.loader.make(keys))
                told(min(start + size, len(missing)), len(missing))
            kept.flush()

    def _wanted(self, answers: Answers, keys: np.ndarray, missing: np.ndarray, step: int) -> np.ndarray:
        """A whole batch for the teacher: what is missing now, then what will be, then anything."""
        later = self.loader.keys(step, LOOK_AHEAD)[len(keys) :]
        later = later[~answers.known(later)][: 2 * len(keys)]
        pool = np.concatenate([missing, later, keys])
        first = np.sort(np.unique(pool, return_index=True)[1])
        return np.resize(pool[first], len(keys))

    def _on_device(self, values: np.ndarray) -> Tensor:
        return sent(torch.from_numpy(values), self.loader.device)

    def told(self) -> list[str]:
        """What keeping a part of the probabilities changes, of each teacher."""
        return [told for kept in self.kept if (told := kept.told())]

    def flush(self) -> None:
        """Everything computed so far is there for other processes, and after a kill."""
        for kept in self.kept:
            kept.flush()

    def record(self) -> dict[str, Any]:
        files = self.files
        missing = "no" if self.why else "no longer" if self.kept else "given"
        facts: dict[str, Any] = {
            "kept": self.mode if files else missing,
            "views": self.loader.slots,
            "hits": self.hits,
            "misses": self.misses,
            "bytes": sum(file.bytes() for file in files),
            "known": known_share(files),
        }
        if self.why:
            facts["why"] = self.why
        if top := next((kept.top for kept in self.kept if kept.top), None):
            facts["top"] = top
            facts["error"] = [error for kept in self.kept if (error := kept.error())]
            facts["told"] = "; ".join(self.told())
        return facts


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
