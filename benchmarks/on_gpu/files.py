"""Sections 5 and 6: engines of TensorRT-RTX and TensorRT, and ONNX Runtime's CUDA provider: parity, score, latency.

A small network is trained first, or was (``--carry``). Its fp32 ONNX file on the CPU is what the others are held to.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress.artifact import Artifact, InputSpec, content_hash, write_text
from kdcompress.bench import timing
from kdcompress.bench.record import Record
from kdcompress.bench.timing import Subject
from kdcompress.data.source import load
from kdcompress.data.splits import Source, Split
from kdcompress.errors import KDCompressError, RuntimeMissingError, reason
from kdcompress.export import formats
from kdcompress.export.describe import recorded
from kdcompress.export.runtimes import require_gpu
from kdcompress.export.to_onnx import export_onnx
from kdcompress.models.build import build
from kdcompress.models.deployable import Deployable
from kdcompress.parity import compared
from kdcompress.recipe import Augment, Data, Train
from kdcompress.runner import infer_all
from kdcompress.tasks import task_of
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import train
from on_gpu.kept import Section

AHEAD = ("tensorrt-rtx", "tensorrt-rtx-int8")  # targets that are built without a GPU
THERE = ("tensorrt", "tensorrt-int8")  # and those that are built on the GPU they are for
CUDA = ("onnx-cuda",)
PARENT = "student.onnx"
MODEL, PARITY_IMAGES = "resnet8x4", 512
SOURCE, CLASSES = "fashion-mnist", 10
SECONDS_EACH = 10  # that a file's latency takes: queries, warm-up, energy


def measure_engines(section: Section) -> None:
    """Raises RuntimeMissingError where there is no GPU; on one that TensorRT-RTX does not support, its files are
    refused one by one, and TensorRT's are still tried."""
    measured(section, (*AHEAD, *THERE), "an engine runs on an NVIDIA GPU")


def measure_provider(section: Section) -> None:
    measured(section, CUDA, "ONNX Runtime's CUDA provider runs on an NVIDIA GPU")


def measured(section: Section, targets: Sequence[str], why: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source = images_of(section.data, section.tiny)
        job = prepared(section.files, source, section.tiny)
        section.tell(source=source.name, parent=PARENT, test_images=len(source.test), gpu=found_gpu(why))
        files: dict[str, Artifact] = {}
        for name in targets:
            told = made(job, name, Path(temporary))
            if isinstance(told, Artifact):
                files[name] = told
            else:
                section.add(target=name, refused=told)
        looked_at(section, job, files, source)


def found_gpu(why: str) -> dict[str, str]:
    return require_gpu(why, "the trial (--tiny) goes as far as this without one")


def made(job: formats.ExportJob, name: str, folder: Path) -> Artifact | str:
    """The target's file: the one that is carried, or built now. Or why there is none."""
    target = formats.target(name)
    try:
        formats.runners[target.runtime].check()
        for path in sorted(job.folder.glob(f"student-{name}.*")):
            if path.suffix != ".json" and (found := recorded(path)) is not None:
                return found
        return formats.build(formats.ExportJob(job.module, job.parent, job.calibration, folder, "student"), target)
    except Exception as error:  # a runtime's own errors have no common type
        return " ".join(filter(None, reason(error)))


def looked_at(section: Section, job: formats.ExportJob, files: dict[str, Artifact], source: Source) -> None:
    """Adds a row for each file."""
    task, spec, test = task_of(job.parent.input), job.parent.input, source.test
    with formats.open_runner(job.parent, threads=torch.get_num_threads()) as runner:
        expected = infer_all(runner, test.images, spec)
    parts: dict[str, dict[str, Any]] = {PARENT: {"score": task.score(expected, test.truth), "parity": None}}
    for name, artifact in files.items():
        try:
            with formats.open_runner(artifact) as runner:
                outputs = infer_all(runner, test.images, spec, batch_size=32)
            same = compared(
                tuple(each[:PARITY_IMAGES] for each in expected),
                tuple(each[:PARITY_IMAGES] for each in outputs),
                task,
                artifact.precision,
            )
            parts[name] = {"score": task.score(outputs, test.truth), "parity": same.to_json()}
        except Exception as error:  # a runtime's own errors have no common type
            section.add(target=name, failed=" ".join(filter(None, reason(error))))
    ran = {name: files[name] if name != PARENT else job.parent for name in parts}
    records = timed(ran, test.images, section.left)
    for name, found in parts.items():
        facts = {"bytes": ran[name].path.stat().st_size, "provenance": ran[name].provenance}
        latency = records[name].to_json() if records else None  # None: no time was left
        section.add(target=name, precision=ran[name].precision, **facts, **found, latency=latency)


def timed(files: dict[str, Artifact], images: np.ndarray, left: float) -> dict[str, Record]:
    """Single-stream, in turns, against the fp32 file on the CPU, by one thread; nothing where no time is left."""
    if left < SECONDS_EACH * len(files):
        return {}
    subjects = [Subject(name, formats.open_runner(artifact), artifact.input) for name, artifact in files.items()]
    return timing.measure(subjects, images[:256], "rapid", baseline=PARENT)


def images_of(data: Path | None, tiny: bool) -> Source:
    """Fashion-MNIST, or images that are made here where its files are not: a pattern for each class, in noise."""
    if data is not None and not tiny:
        return load(Data(source=SOURCE, root=data, train_images=10_000))
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (CLASSES, 28, 28, 1))

    def split(count: int) -> Split:
        truth = rng.integers(0, CLASSES, count)
        images = patterns[truth] // 2 + rng.integers(0, 128, (count, 28, 28, 1))
        return Split(images.astype(np.uint8), truth)

    n = 128 if tiny else 5_000
    labels, digest = tuple(map(str, range(CLASSES))), content_hash(["patterns", n])
    return Source(
        "patterns", labels, split(n), split(64), split(64 if tiny else 2_000), (0.5,), (0.25,), digest, "made"
    )


def prepared(folder: Path, source: Source, tiny: bool) -> formats.ExportJob:
    """The trained network and its fp32 file, from ``folder`` where they are there, else made in it."""
    spec = InputSpec(28, 28, 1, source.mean, source.std, source.labels)
    net, weights = build("resnet8" if tiny else MODEL, CLASSES, 1), folder / "student.pt"
    module = Deployable(net, spec).eval()
    if weights.is_file():
        net.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
        parent = recorded(folder / PARENT)
        if parent is None:
            raise KDCompressError("The carried files are not whole.", where=folder, hint="make them again: --carry")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        example = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
        distilled = Distillation(Member(net, source.mean, source.std), None, "none", example)
        options = Train(images=128 if tiny else 20_000, batch_size=64, lr=0.05, select="last")
        with tempfile.TemporaryDirectory() as run:
            train(distilled, source, options, Augment(), 0, Path(run))
        net = distilled.deployable().cpu()
        module = Deployable(net, spec).eval()
        torch.save(net.state_dict(), weights)
        parent = keep(export_onnx(module, spec, folder / PARENT))
    return formats.ExportJob(module, parent, source.train.images[:512], folder, "student")


def keep(artifact: Artifact) -> Artifact:
    """With its record beside it."""
    write_text(artifact.path.with_name(artifact.path.name + ".json"), json.dumps(artifact.to_json()))
    return artifact


def build_ahead(folder: Path, source: Source, tiny: bool) -> dict[str, str]:
    """Trains the network and builds the engines that need no GPU to be built; what was built, or why not, by target."""
    job, told = prepared(folder, source, tiny), {}
    for name in AHEAD:
        try:
            told[name] = keep(formats.build(job, formats.target(name))).path.name
        except (KDCompressError, RuntimeMissingError) as error:
            told[name] = "not built: " + " ".join(filter(None, reason(error)))
    return told
