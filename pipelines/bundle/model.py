"""A bundle's model.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kdcompress.artifact import Artifact, InputSpec, margin_at
from kdcompress.bench.machine import machine
from kdcompress.export import formats
from kdcompress.export.run_ncnn import blobs
from kdcompress.pipelines.bundle.kinds import FAMILIES, Kind
from kdcompress.tasks import task_of


def model_of(
    document: Mapping[str, Any], row: Mapping[str, Any], artifact: Artifact, kind: Kind, threads: int
) -> dict[str, Any]:
    """model.json: what a program must know to run the artefact."""
    spec, provenance = artifact.input, artifact.provenance
    planes = spec.layout == "float-nchw" or artifact.format == "ncnn"  # ncnn takes planes of floats
    batch = 1 if artifact.format == "ncnn" else spec.batch
    if artifact.format in ("executorch", "litert", "coreml"):
        batch = spec.batch or 1  # they hold one fixed size
    shape = [spec.channels, spec.height, spec.width] if planes else [spec.height, spec.width, spec.channels]
    built_for = {
        key: provenance[key]
        for key in (
            *("compute_capabilities", "gpu", "profile", "minimum_deployment_target"),
            *("version_compatible", "hardware_compatibility", "refit"),
        )
        if provenance.get(key)
    }
    task, here = task_of(spec), machine()
    runner = formats.runners.entries().get(provenance.get("runtime", ""))
    provider = getattr(runner, "accelerator", "")  # of ONNX Runtime, where the target names one
    package = runner.package if runner and provider else kind.package
    return {
        "name": document["name"],
        "file": artifact.path.name,
        "format": artifact.format,
        "precision": artifact.precision,
        "target": artifact.target,
        "sha256": artifact.sha256,
        "input": {
            "name": "in0" if artifact.format == "ncnn" else spec.name,
            "dtype": "float32" if planes else "uint8",
            "layout": "NCHW" if planes else "NHWC",
            "range": [0, 1 if spec.layout == "float-nchw" else 255],
            "shape": [batch, *shape],
            "height": spec.height,
            "width": spec.width,
            "channels": spec.channels,
            "colours": {1: "grey", 3: "RGB"}.get(spec.channels, f"{spec.channels} channels"),
            "normalisation": {"inside_the_model": True, "mean": spec.mean, "std": spec.std},
        },
        "outputs": [
            {
                "name": blobs(spec)[output.name] if artifact.format == "ncnn" else output.name,
                "dtype": "float32",
                "shape": [batch, *output.shape],
                "meaning": output.meaning,
            }
            for output in spec.outputs
        ],
        "labels": list(spec.labels),
        "answer": task.answer,
        **task.reading(document["recipe"]["data"]),
        **_threshold(spec),
        "programs": FAMILIES[task.program].programs,
        "runtime": {
            "name": kind.runtime,
            "version": _version(kind, provenance),
            "module": kind.module,
            "install": " ".join(["pip install", package, "numpy", *kind.also.split()]),
            "threads": threads,
            **({"providers": [provider, "CPUExecutionProvider"]} if provider else {}),
        },
        "built_for": built_for,
        "made_on": f"{here.get('cpu') or 'an unnamed CPU'} ({platform.machine()}, {platform.system()})",
        "recipe_hash": document["recipe_hash"],
        "kdcompress": document["kdcompress"],
    }


def _threshold(spec: InputSpec) -> dict[str, Any]:
    """The second label is the answer where its share is above this, and so where its logit is above the first's by
    more than ``margin``."""
    if spec.threshold is None:
        return {}
    margin = margin_at(spec.threshold)
    return {"threshold": {"label": spec.labels[1], "share": spec.threshold, "margin": margin}}


def _version(kind: Kind, provenance: Mapping[str, Any]) -> str | None:
    try:
        return version(kind.package)
    except PackageNotFoundError:
        versions = provenance.get("versions") or {}
        return versions.get(kind.package) or versions.get(kind.module)
