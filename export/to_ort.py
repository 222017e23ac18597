"""ONNX -> .ort, ONNX Runtime's own format: the graph already optimised for the CPUs of one platform."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kdcompress.artifact import Artifact, replacing
from kdcompress.errors import UsageError
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.quantize import coverage, nodes, quantize, save_optimised
from kdcompress.export.quiet import quiet


def write(job: ExportJob, target: Target) -> Artifact:
    platform, scheme = target.options.platform, target.options.scheme
    if platform is None:
        raise UsageError(
            "An .ort file needs a platform.",
            where=f"target {target.name}, options.platform",
            got="none",
            allowed="arm, amd64",
        )
    layout = scheme is None  # an int8 file needs no blocked layout, and then runs on every CPU of its platform
    path = job.path(target, ".ort")
    facts: dict[str, Any] = {"platform": platform}
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        source = job.parent.path
        if scheme is not None:
            source = Path(folder, "int8.onnx")
            quantize(job, scheme, source, platform)
            facts["scheme"] = scheme.model_dump(mode="json")
            facts["calibration_images"] = min(len(job.calibration), scheme.images)
        save_optimised(source, temporary, platform, "ORT", layout)
        facts["coverage"] = coverage(source, platform, layout)
        facts["operators"] = operators(temporary)
    if any("nchwc" in line for line in facts["operators"]):
        facts["needs"] = "a CPU with vectors as wide as those of the one that built it"
    facts["versions"] = {"onnxruntime": version("onnxruntime")}
    return Artifact.of(path, "ort", target.precision, job.parent.input, target=target.name, provenance=facts)


def operators(path: Path) -> list[str]:
    """The lines of the configuration that a reduced build of ONNX Runtime is made from (--include_ops_by_config):
    "domain;opset;operator,operator"."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    with tempfile.TemporaryDirectory() as folder, quiet():
        config = Path(folder, "operators.config")
        create_config_from_models([path], config, enable_type_reduction=False)
        return [line for line in config.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


for precision in ("fp32", "int8"):
    writers.register(f"ort-{precision}")(Writer(write, nodes=nodes))
