"""fp32 ONNX -> OpenVINO in fp32, or with its weights stored in fp16."""

from __future__ import annotations

from kdcompress.artifact import Artifact
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.openvino_model import check, convert, write_model


def write(job: ExportJob, target: Target) -> Artifact:
    return write_model(convert(job), job, target)


for precision in ("fp32", "fp16"):
    writers.register(f"openvino-{precision}")(Writer(write, check, ("openvino",)))
