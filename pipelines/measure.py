"""Accuracy and latency of exported files given by path: what `evaluate` and `bench` do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.bench.machine import advice, machine
from kdcompress.bench.timing import Subject, measure, paired_ratio
from kdcompress.data.source import Source, load
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.describe import artifact_of
from kdcompress.export.formats import open_runner
from kdcompress.recipe import validate_recipe
from kdcompress.runner import infer_all


def load_artifact(path: Path) -> Artifact:
    """An artefact that kdcompress made: by the record beside it, or from the ONNX file itself."""
    if not path.exists():
        raise UsageError("There is no such file.", where=path)
    record = path.with_name(path.name + ".json")
    if record.is_file():
        return Artifact.from_json(json.loads(record.read_text()), path.parent).verified()
    return artifact_of(path)


def load_source(name: str, root: Path | None, size: int | None) -> Source:
    """A data set by name, through the recipe's own validation."""
    data = {"source": name, "root": root, "size": size}
    return load(validate_recipe({"name": "measure", "data": data, "student": {"model": "resnet8"}}).data)


def _fits(artifact: Artifact, images: np.ndarray, source: str) -> None:
    expected = (artifact.input.height, artifact.input.width, artifact.input.channels)
    if images.shape[1:] != expected:
        raise UsageError(
            f"The images of {source} do not fit the model.",
            where=artifact.path,
            got="x".join(map(str, images.shape[1:])),
            allowed="x".join(map(str, expected)) + " (height, width, channels)",
        )


def evaluate_files(
    files: tuple[Path, ...], name: str, root: Path | None, size: int | None, threads: int
) -> list[dict[str, Any]]:
    """Accuracy (per cent) of each file on the test split, and agreement with the first file."""
    artifacts = [load_artifact(path) for path in files]
    source = load_source(name, root, size)
    for artifact in artifacts:
        _fits(artifact, source.test.images, name)
        if artifact.input.classes != len(source.labels):
            raise UsageError(
                f"The classes of {name} are not the model's.",
                where=artifact.path,
                got=len(source.labels),
                allowed=f"{artifact.input.classes} classes",
            )
    results, first = [], None
    for artifact in artifacts:
        begun = time.monotonic()
        with open_runner(artifact, threads=threads) as runner:
            predictions = infer_all(runner, source.test.images, artifact.input).argmax(1)
            details = runner.details()
        first = predictions if first is None else first
        results.append(
            {
                "file": str(artifact.path),
                "sha256": artifact.sha256,
                "n": len(predictions),
                "accuracy": 100.0 * float((predictions == source.test.labels).mean()),
                "agreement": 100.0 * float((predictions == first).mean()),
                "seconds": round(time.monotonic() - begun, 2),
                "runtime": details,
            }
        )
    return results


def bench_files(
    files: tuple[Path, ...], threads: int, effort: str, name: str | None, root: Path | None
) -> dict[str, Any]:
    """Interleaved single-stream latency of each file; ratios are to the first."""
    artifacts = {str(path): load_artifact(path) for path in files}
    source = load_source(name, root, None) if name else None
    subjects = []
    for label, artifact in artifacts.items():
        if source:
            _fits(artifact, source.test.images, source.name)
        subjects.append(Subject(label, open_runner(artifact, threads=threads), artifact.input))
    shapes = {(a.input.height, a.input.width, a.input.channels) for a in artifacts.values()}
    if len(shapes) > 1:
        raise UsageError("The files take images of different sizes.", got=sorted(shapes), hint="bench them apart")
    if source:
        images = source.test.images[:1024]
    else:
        images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (256, *shapes.pop()), dtype=np.uint8)
    before = machine()
    records = measure(subjects, images, effort)
    if not any(record.n for record in records.values()):
        raise KDCompressError(
            "None of the files could be measured.", got=[r.to_json().get("error") for r in records.values()]
        )
    base = next(iter(records.values()))
    ratios = {label: paired_ratio(r, base) for label, r in records.items() if r is not base and r.n and base.n}
    return {
        "records": {label: record.to_json() for label, record in records.items()},
        "ratios": ratios,
        "inputs": name or "random pixels",
        "machine": machine(),
        "advice": advice(records, before, machine()),
    }
