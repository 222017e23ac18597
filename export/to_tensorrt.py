"""ONNX -> TensorRT engine, on the GPU that it is for."""

from __future__ import annotations

from types import ModuleType

from kdcompress.artifact import Artifact, replacing
from kdcompress.export.formats import ExportJob, Target, Writer, require_gpu, writers
from kdcompress.export.suppression import finished
from kdcompress.export.tensorrt_builder import inspected, write_engine
from kdcompress.optional import require


def library() -> ModuleType:
    return require("tensorrt", "tensorrt", "A TensorRT engine")


def check() -> None:
    require_gpu(
        "TensorRT tries its kernels out on the GPU that the engine is for",
        "the target tensorrt-rtx builds without one; `kdcompress bundle --target` packs what builds this one there",
    )
    library()


def write(job: ExportJob, target: Target) -> Artifact:
    path = job.path(target, ".trt.engine")
    trt = library()
    with replacing(path) as temporary:
        provenance = write_engine(trt, job, target, temporary, timing_cache=job.folder / "tensorrt-timing.cache")
        provenance |= inspected(trt, target, temporary)
    spec = job.parent.input
    if target.options.nms == "graph":
        spec = finished(spec, f"{target.name}: options.nms")
    return Artifact.of(path, "tensorrt", target.precision, spec, target=target.name, provenance=provenance)


for precision in ("fp32", "fp16", "int8"):
    writers.register(f"tensorrt-{precision}")(Writer(write, check, ("tensorrt",)))
