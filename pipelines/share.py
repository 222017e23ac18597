"""A teacher's answers to all that a student is trained on, in a file that others train from without the teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kdcompress
from kdcompress.console import say
from kdcompress.data.given import digests, write_answers
from kdcompress.data.loader import Loader
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.inputs import check_shared
from kdcompress.pipelines.parts import answers_of, named
from kdcompress.pipelines.preflight import random_states_kept
from kdcompress.pipelines.steps.names import trained, weights_of
from kdcompress.recipe import Recipe
from kdcompress.training.cache import TeacherCache
from kdcompress.training.given import plain
from kdcompress.training.keeping import Kept
from kdcompress.training.opening import not_cacheable, open_cache
from kdcompress.training.packing import Largest, Whole
from kdcompress.training.precision import choose_precision
from kdcompress.training.setup import accelerated, set_up

Progress = Callable[[float, str], None]
PART = 1 << 16  # answers that are unpacked at once


class Share:
    """The answers that the student of a recipe would read, in every view of its images. They are computed where they
    are not kept yet, and kept."""

    def __init__(self, recipe: Recipe, folder: Path, output: Path, command: str = ""):
        self.recipe, self.output = recipe, output
        self.compression = Compression(recipe, folder, command)

    def check(self) -> None:
        """Raises UsageError for what can be known to fail. Writes nothing."""
        if self.output.suffix != ".npz":
            raise UsageError("Answers are written into a .npz file.", where="--output", got=self.output)
        if self.output.exists():
            raise UsageError("The file is there, and is not overwritten.", where=self.output, hint="choose another -o")
        if not self.output.parent.is_dir():
            raise UsageError("The folder is not there.", where=self.output.parent, hint="make it, or choose another -o")
        parts = self.compression.networks.parts
        taught = parts["student"].taught()
        if len(taught) != 1 or answers_of(parts[taught[0]].network):
            got = ", ".join(named(parts[role].network) for role in taught) or "nobody"
            raise UsageError(
                "Answers are those of one teacher that runs, whose logits the student learns from.",
                where="method",
                got=f"{' and '.join(self.recipe.method)}, taught by {got}",
                hint="method=kd, for example",
            )
        check_shared(self.compression.networks, taught[0])
        self.compression.check(ships=False)
        with random_states_kept():
            why = not_cacheable(self.compression.networks.distillation("student"), self.recipe.data.augment)
        if why:
            hint = "a method on logits, such as method=kd"
            raise UsageError("The teacher's answers cannot be kept.", where="method", got=why, hint=hint)

    def run(self, progress: Progress = lambda share, what: None) -> dict[str, Any]:
        """Trains the teacher where that is not done yet, and writes the file; what is in it."""
        compression, networks = self.compression, self.compression.networks
        part = networks.parts["student"]
        (teacher,) = part.taught()
        assert part.train is not None
        with compression.folder.locked():
            compression.make(trained(teacher))
            distillation = networks.distillation("student", weights_of(compression.done))
            source, augment = networks.trained_on("student"), self.recipe.data.augment
            unlabelled = source.unlabelled
            precision = choose_precision(part.train.precision)
            accelerator = accelerated(precision)
            images = unlabelled.images if unlabelled else None
            hashes = [source.hash, unlabelled.hash if unlabelled else ""]
            with set_up(distillation, source.train, part.train, augment, part.seed, accelerator, images) as setup:
                found = []
                for loader, digest in zip(setup.feed.loaders, hashes):
                    autocast = accelerator.autocast
                    cache, record = open_cache(
                        distillation, loader, digest, augment, part.train, precision, autocast, data=source.name
                    )
                    if cache is None or not cache.files:
                        why, hint = record.get("why"), "kdcompress run goes on without keeping them"
                        raise UsageError("The teacher's answers cannot be kept.", where="train", got=why, hint=hint)
                    cache.complete(lambda done, all: progress(done / all, "of the teacher's answers"))
                    if not cache.files:  # why was said
                        raise KDCompressError("The teacher's answers could not all be kept.", hint="free some space")
                    found.append((loader, cache))
            return self._write(found, named(networks.parts[teacher].network))

    def _write(self, found: list[tuple[Loader, TeacherCache]], teacher: str) -> dict[str, Any]:
        networks = self.compression.networks
        source, augment = networks.source, networks.parts["student"].seen(self.recipe.data.augment)
        errors = [error for _, cache in found for kept in cache.kept if (error := kept.error())]
        about = {"kdcompress": kdcompress.__version__, "teacher": teacher, "data": source.name, "errors": errors}
        parts = [arrays_of(cache.kept[0], loader.slots) for loader, cache in found]
        write_answers(
            self.output,
            [digests(loader.split.images) for loader, _ in found],
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            source.labels,
            None if plain(augment) else augment.deciding(),
            about,
        )
        for told in (told for _, cache in found for told in cache.told()):
            say(f"in the file: {told}", style="dim")
        return {
            "file": str(self.output),
            "bytes": self.output.stat().st_size,
            "images": sum(len(loader) for loader, _ in found),
            "views": found[0][0].slots,
            "classes": len(source.labels),
            "top": found[0][1].kept[0].top,
            "errors": errors,
        }


def arrays_of(kept: Kept, views: int) -> dict[str, np.ndarray]:
    """What a file of answers has of these, [N, V, ...] each."""
    answers, packing = kept.answers, kept.packings["logits"]
    assert answers is not None
    start = 0
    for name, each in kept.packings.items():
        if name == "logits":
            break
        start += each.bytes
    mine = answers.values[:, start : start + packing.bytes]
    if isinstance(packing, Largest):
        kinds = {torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32}
        split = 2 * (packing.most + 1)
        found = {
            "values": np.ascontiguousarray(mine[:, :split]).view(np.float16),
            "classes": np.ascontiguousarray(mine[:, split:]).view(kinds[packing.classes]),
        }
    else:
        assert isinstance(packing, Whole)
        half = packing.stored == torch.float16
        parts = [
            packing.unpacked(torch.from_numpy(mine[at : at + PART].copy())).float().numpy()
            for at in range(0, len(mine), PART)
        ]
        found = {"logits": np.concatenate(parts).astype(np.float16 if half else np.float32)}
    return {name: array.reshape(-1, views, array.shape[1]) for name, array in found.items()}
