"""fp32 ONNX -> fp16 ONNX."""

from __future__ import annotations

from importlib.metadata import version

from kdcompress.artifact import Artifact, replacing
from kdcompress.export import graph
from kdcompress.export.float16 import to_float16
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.quantize import coverage


def write(job: ExportJob, target: Target) -> Artifact:
    path = job.path(target, ".onnx")
    model = to_float16(graph.load(job.parent.path))
    graph.set_metadata(model, {"kdcompress.precision": "fp16"})
    with replacing(path) as temporary:
        graph.save(model, temporary)
        provenance = {
            "coverage": coverage(temporary),
            "versions": {"onnxconverter-common": version("onnxconverter-common")},
        }
    return Artifact.of(path, "onnx", "fp16", job.parent.input, target=target.name, provenance=provenance)


writers.register("onnx-fp16")(Writer(write))
