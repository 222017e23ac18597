"""Candidates are built with random weights, and timed in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError
from kdcompress.export import formats
from kdcompress.export.to_onnx import export_onnx
from kdcompress.pipelines.networks import Networks
from kdcompress.pipelines.plan.records import PARENT, Built, Counted, Latency
from kdcompress.pipelines.preflight import settle
from kdcompress.pipelines.runs import Done, Inputs, Key, RunFolder, Step
from kdcompress.pipelines.sources import Sources
from kdcompress.pipelines.timed import conditions, time_files
from kdcompress.pipelines.user_code import code_hash
from kdcompress.pipelines.verdict import BYTES
from kdcompress.recipe import Bench, is_code

IMAGES = 64  # training images for batch-norm statistics and the quantiser's ranges: speed and size need no more
File = tuple[str, str]
"""(candidate, target), or (candidate, PARENT)"""


@dataclass(frozen=True)
class BuildStep(Step):
    """A candidate's file for each target, and the fp32 that they are made from."""

    networks: Networks
    candidate: Counted
    targets: tuple[formats.Target, ...]

    @property
    def name(self) -> str:
        return f"build-{slug(self.candidate.name)}"

    def key(self, inputs: Inputs) -> Key:
        recipe, student = self.networks.recipe, self.candidate.student
        export = recipe.export
        params = {
            "student": student.model_dump(mode="json", exclude_defaults=True),
            "method": recipe.method,
            "layout": export.layout,
            "batch": export.batch,
            "opset": export.opset,
            "targets": [target.model_dump(mode="json") for target in self.targets],
        }
        hashes = {"data": self.networks.source.hash}
        if is_code(student.model):
            hashes["code"] = code_hash(student.model)
        packages = sorted({name for target in self.targets for name in formats.writers[target.writer].packages})
        return Key(params, hashes, ("torch", "timm", "onnx", "onnxruntime", *packages))

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        networks = self.networks
        images = networks.calibration()[:IMAGES]
        net = networks.with_kept("student")
        settle(net, networks.member("student", net).input(torch.from_numpy(images).permute(0, 3, 1, 2)))
        module = networks.deployable("student", net)
        path, opset = folder / "candidate.onnx", networks.recipe.export.opset
        parent = export_onnx(module, module.spec, path, opset=opset)
        job = formats.ExportJob(module, parent, images, folder, "candidate")
        return {target.name: formats.build(job, target).to_json() for target in self.targets} | {
            PARENT: parent.to_json()
        }


def built(folder: RunFolder, step: BuildStep) -> Built:
    done = folder.run(step)
    artifacts = {name: Artifact.from_json(facts, done.folder) for name, facts in done.result.items()}
    largest = {target.name: step.candidate.activations * BYTES[target.precision] for target in step.targets}
    memory = {name: artifacts[name].bytes + bytes for name, bytes in largest.items()}
    return Built(artifacts, memory, done)


@dataclass(frozen=True)
class TimeStep(Step):
    """The records of some files, timed in turns; ratios are to the first."""

    name: str
    sources: Sources
    bench: Bench
    artifacts: Mapping[str, Artifact]

    def key(self, inputs: Inputs) -> Key:
        return Key(conditions(self.bench), {label: artifact.sha256 for label, artifact in self.artifacts.items()})

    def do(self, folder: Path, inputs: Inputs) -> dict[str, Any]:
        first = next(iter(self.artifacts))
        session = time_files(self.artifacts, self.sources.images, self.bench, baseline=first, needed=self.artifacts)
        if why := session.records[first].failed:
            raise KDCompressError("The file that all others are compared with cannot be timed.", where=first, got=why)
        return {label: record.to_json() for label, record in session.records.items()}


def label(file: File) -> str:
    return " ".join(file)


def pace(groups: Sequence[Done]) -> float | None:
    """The baseline's median latency, ms: the middle one of the groups, of each of which it is the first."""
    found = [next(iter(done.result.values()))["median_ms"] for done in groups]
    return statistics.median(value for value in found if value) if any(found) else None


def latencies(groups: Sequence[Done], baseline: File | None, files: Sequence[File]) -> dict[File, Latency | str]:
    """Of those of ``files`` that were timed, or why one could not be: from each group's ratios to the baseline, and
    that one's own from all groups."""
    own, found = pace(groups), dict[File, Latency | str]()
    records = {name: record for done in groups for name, record in done.result.items()}
    for file in files:
        record = records.get(label(file))
        if record is None:
            continue
        if file == baseline and own:
            found[file] = Latency(own, own, own)
        elif record["failed"]:
            found[file] = f"not measured: {record['failed']}"
        elif own and record["ratio"] and record["ratio"]["median"]:
            found[file] = Latency(*(record["ratio"][key] * own for key in ("median", "low", "high")))
    return found


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
