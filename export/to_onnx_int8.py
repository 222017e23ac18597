"""fp32 ONNX -> int8 ONNX, by the target's scheme."""

from __future__ import annotations

from importlib.metadata import version

from kdcompress.artifact import Artifact
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.quantize import nodes, quantize


def write(job: ExportJob, target: Target) -> Artifact:
    scheme = target.options.scheme
    assert scheme is not None  # a Target with precision int8 has one
    path = job.path(target, ".onnx")
    coverage = quantize(job, scheme, path, target.options.platform)
    provenance = {
        "scheme": scheme.model_dump(mode="json"),
        "calibration_images": min(len(job.calibration), scheme.images),
        "coverage": coverage,
        "versions": {"onnxruntime": version("onnxruntime")},
    }
    return Artifact.of(path, "onnx", "int8", job.parent.input, target=target.name, provenance=provenance)


writers.register("onnx-int8")(Writer(write, nodes=nodes))
