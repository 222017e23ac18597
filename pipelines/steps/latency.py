"""The latency of every file that runs where it is timed, in turns, so that ratios hold on a machine that drifts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcompress.bench.advice import advice
from kdcompress.pipelines.runs import Inputs, Key, Step
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.steps.names import LATENCY, StepName, artifact_of
from kdcompress.pipelines.timed import conditions, fitted, time_files
from kdcompress.pipelines.verdict import ratios
from kdcompress.recipe import Bench


@dataclass(frozen=True)
class LatencyStep(Step):
    sources: Sources
    bench: Bench
    files: tuple[StepName, ...]  # as they were exported

    @property
    def name(self) -> StepName:
        return LATENCY

    @property
    def after(self) -> tuple[StepName, ...]:
        return self.files

    def key(self, inputs: Inputs) -> Key:
        names = [str(name) for name in self.files]
        hashes = {str(name): inputs[name].hash for name in self.files}
        return Key({**conditions(self.bench), "names": names}, hashes, ("onnxruntime",))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        artifacts = {str(name): artifact_of(inputs, name) for name in self.files}
        shape = self.sources.images.shape[1:]
        artifacts = {name: fitted(artifact, shape) for name, artifact in artifacts.items()}
        session = time_files(artifacts, self.sources.images, self.bench)
        parents = {name: "student-fp32" for name, artifact in artifacts.items() if artifact.precision == "int8"}
        return {
            "device": session.device,
            "machine": session.before,
            "records": {name: record.to_json() for name, record in session.records.items()},
            "ratios": ratios(session.records),
            "left_out": session.left_out,
            "parity": session.parity,
            "advice": advice(session.records, session.before, session.after, parents),
        }
