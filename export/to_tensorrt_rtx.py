"""ONNX -> TensorRT-RTX engine, ahead of time: no GPU is needed to build."""

from __future__ import annotations

from types import ModuleType

from kdcompress.artifact import Artifact, replacing
from kdcompress.export.formats import ExportJob, Target, Writer, require_gpu, writers
from kdcompress.export.tensorrt_builder import write_engine
from kdcompress.optional import require


def library() -> ModuleType:
    return require("tensorrt_rtx", "tensorrt-rtx", "A TensorRT-RTX engine")


def check() -> None:
    library()


def write(job: ExportJob, target: Target) -> Artifact:
    if target.options.refit:
        require_gpu(
            "TensorRT-RTX can build with options.refit only on an NVIDIA GPU",
            "leave options.refit out, or build it there",
        )
    # No timing cache: with one, TensorRT-RTX asks for a GPU.
    path = job.path(target, ".rtx.engine")
    with replacing(path) as temporary:
        provenance = write_engine(library(), job, target, temporary)
    return Artifact.of(
        path, "tensorrt-rtx", target.precision, job.parent.input, target=target.name, provenance=provenance
    )


for precision in ("fp32", "fp16", "int8"):
    writers.register(f"tensorrt-rtx-{precision}")(Writer(write, check, ("tensorrt-rtx",)))
