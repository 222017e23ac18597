"""A file of the student with some layers in int8, looked at on validation images and thrown away, and files timed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcompress.artifact import Artifact
from kdcompress.bench.record import paired_ratio
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export import formats
from kdcompress.export.mixed import Layers
from kdcompress.export.sensitivity import output_error
from kdcompress.intervals import Sample, interval, lost
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.steps.target import validation_score
from kdcompress.pipelines.timed import conditions, time_files
from kdcompress.recipe import Bench
from kdcompress.report.rows import drop_record
from kdcompress.runner import infer_all

ERROR_IMAGES = 128
PARENT = "fp32"


@dataclass(frozen=True, eq=False)
class Judged:
    """A student whose files are tried for one target. ``job`` writes them; ``count``: of the validation images;
    ``hashes``: of what the files depend on."""

    networks: Networks
    job: formats.ExportJob
    target: formats.Target
    layers: Layers
    count: int
    hashes: Mapping[str, str]

    def with_float(self, floating: frozenset[str]) -> formats.Target:
        """The target with these layers in float, beside those that it has there anyway."""
        options = self.target.options
        assert options.scheme is not None  # a target with precision int8 has one
        left = (*options.scheme.exclude, *self.layers.excluded(floating))
        scheme = options.scheme.model_copy(update={"exclude": left})
        return self.target.model_copy(update={"options": options.model_copy(update={"scheme": scheme})})

    def build(self, floating: frozenset[str], folder: Path) -> Artifact:
        """The file in the folder; the parent where all layers are in float."""
        if floating.issuperset(self.layers.names):
            return self.job.parent
        return formats.build(replace(self.job, folder=folder), self.with_float(floating))

    @cached_property
    def parent(self) -> Sample:
        return validation_score(self.networks, self.job.parent, self.count)

    @cached_property
    def expected(self) -> tuple[np.ndarray, ...]:
        return self.few(self.job.parent)

    def few(self, artifact: Artifact) -> tuple[np.ndarray, ...]:
        images = self.networks.source.validation.images[: min(self.count, ERROR_IMAGES)]
        with formats.open_runner(artifact, threads=torch.get_num_threads()) as runner:
            return infer_all(runner, images, artifact.input)

    def key(self, **params: Any) -> Key:
        export = self.networks.recipe.export
        params |= {"calibration_images": export.calibration_images, "images": self.count, **self.networks.figure_key}
        packages = ("torch", "onnx", "onnxruntime", *formats.writers[self.target.writer].packages)
        return Key(params, self.hashes, packages)


@dataclass(frozen=True)
class TriedStep(Step):
    """The score of one, its interval, the points lost to the parent, and the ratio of signal to noise of its outputs in
    decibels; or ``why`` it cannot be built."""

    judged: Judged
    floating: frozenset[str]

    @property
    def name(self) -> str:
        return f"sensitivity-{self.judged.target.name}"

    def key(self, inputs: Inputs) -> Key:
        tried = self.judged.with_float(self.floating).model_dump(mode="json", exclude={"description", "measured_on"})
        tried["options"]["scheme"]["exclude"].sort()
        return self.judged.key(target=tried)

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        judged = self.judged
        with tempfile.TemporaryDirectory() as scratch:
            try:
                artifact = judged.build(self.floating, Path(scratch))
            except (RuntimeMissingError, UsageError):
                raise
            except KDCompressError as error:  # such as a network none of which runs in int8
                return {"why": error.what}
            found, parent = validation_score(judged.networks, artifact, judged.count), judged.parent
            of_score = interval(found)
            return {
                "score": found.score,
                "low": of_score and of_score.low,
                "high": of_score and of_score.high,
                "drop": round(parent.score - found.score, 9),
                "lost": drop_record(lost(found, parent)),
                "snr_db": self._snr(artifact),
                "bytes": artifact.bytes,
            }

    def _snr(self, artifact: Artifact) -> float | None:
        """None of a file that gives its parent's very numbers, or others than it."""
        judged = self.judged
        if artifact.input.outputs != judged.job.parent.input.outputs:
            return None
        error = output_error(artifact.input, judged.expected, judged.few(artifact)) / len(judged.expected)
        return round(float(-10 * np.log10(error)), 3) if error > 0 else None


@dataclass(frozen=True)
class TimedStep(Step):
    """Files of the student timed in turns on this machine: the ratio of each to its fp32 parent, and to that with the
    label ``against``. ``points``: by label, the layers that are in float."""

    judged: Judged
    points: Mapping[str, frozenset[str]]
    bench: Bench
    against: str = PARENT

    @property
    def name(self) -> str:
        return f"sensitivity-time-{self.judged.target.name}"

    def key(self, inputs: Inputs) -> Key:
        tried = {label: sorted(self.judged.layers.excluded(floating)) for label, floating in self.points.items()}
        target = self.judged.target.model_dump(mode="json", exclude={"description", "measured_on"})
        return self.judged.key(target=target, points=tried, against=self.against, **conditions(self.bench))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            artifacts = {
                label: self.judged.build(floating, Path(scratch, str(number)))
                for number, (label, floating) in enumerate(self.points.items())
            }
            session = time_files(artifacts, self.judged.networks.sources.images, self.bench, PARENT)
        failed = {label: record.failed for label, record in session.records.items() if record.failed}
        if failed:
            raise KDCompressError("A file stopped while it was timed.", got=failed)
        records, other = session.records, session.records[self.against]
        return {
            "ms": {label: record.median_ms for label, record in records.items()},
            "ratios": {label: record.ratio for label, record in records.items() if record.ratio},
            "against": {label: paired_ratio(record, other) for label, record in records.items() if record is not other},
            "other_cpu_percent": other.other_cpu_percent,
        }
