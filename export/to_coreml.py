"""PyTorch -> Core ML: an ML program in an .mlpackage folder.

The input ``image`` is an image for the layout ``uint8-nhwc`` (RGB or grey, what Vision and Xcode hand over: any camera
frame is fitted by the system) and a float array [1, C, H, W] in 0..1 for ``float-nchw``. The normalisation is in the
graph. The output ``logits`` is float32 [1, classes]; the labels are in the model's metadata, in their order.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress import __version__
from kdcompress.artifact import Artifact, replacing
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.export.planar import planar
from kdcompress.export.quiet import quiet
from kdcompress.optional import require, require_installed

COLOURS = {1: "GRAYSCALE", 3: "RGB"}  # by channels
FAMILIES = {"conv": ("conv", "conv_transpose"), "gemm": ("linear", "matmul")}


def check() -> None:
    require_installed("coremltools", "coreml", "A Core ML model")


def write(job: ExportJob, target: Target) -> Artifact:
    spec = job.parent.input
    path = job.path(target, ".mlpackage")
    with replacing(path) as temporary, quiet():
        model = convert(job, target.precision)
        model.short_description = f"Image classifier, {spec.classes} classes, normalisation inside"
        model.version = f"kdcompress {__version__}"
        facts = {
            "labels": json.dumps(spec.labels),
            "layout": spec.layout,
            "mean": json.dumps(spec.mean),
            "std": json.dumps(spec.std),
            "kdcompress.precision": target.precision,
            "kdcompress.parent": job.parent.sha256,
        }
        model.user_defined_metadata.update(facts)
        model.save(str(temporary))
        found = coverage(temporary)
    if any(count for family in FAMILIES for kind, count in found[family].items() if kind != target.precision):
        raise KDCompressError(f"Not every layer is {target.precision}.", where=path.name, got=found)
    provenance = {
        "coverage": found,
        "versions": {name: version(name) for name in ("coremltools", "torch")},
        "input": "image: an image" if spec.layout == "uint8-nhwc" else "image: float [1, C, H, W], 0..1",
        "minimum_deployment_target": "iOS 16, macOS 13",
    }
    return Artifact.of(path, "coreml", target.precision, spec, target=target.name, provenance=provenance)


def convert(job: ExportJob, precision: str) -> Any:
    """The coremltools MLModel, not loaded. Raises UsageError for images that Core ML has no type for and
    KDCompressError where it cannot take the network."""
    import torch

    ct = require("coremltools", "coreml", "A Core ML model")
    spec = job.parent.input
    if spec.layout == "uint8-nhwc" and spec.channels not in COLOURS:
        raise UsageError(
            "Core ML has no images of this many channels.",
            got=spec.channels,
            allowed=", ".join(map(str, COLOURS)),
            hint="set the recipe's export.layout to float-nchw",
        )
    net, example = planar(job.module, spec)
    shape = tuple(example.shape)
    if spec.layout == "uint8-nhwc":
        image = ct.ImageType(spec.name, shape=shape, color_layout=getattr(ct.colorlayout, COLOURS[spec.channels]))
    else:
        image = ct.TensorType(spec.name, shape=shape, dtype=np.float32)
    with torch.inference_mode():
        traced = torch.jit.trace(net, example, check_trace=False)
    try:
        return ct.convert(
            traced,
            inputs=[image],
            outputs=[ct.TensorType(spec.output, dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
            skip_model_load=True,
        )
    except Exception as error:  # coremltools' errors share no base class
        raise KDCompressError(
            "Core ML cannot take this model.",
            where=type(job.module).__name__,
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            hint="change this operator in the model, or leave this target out",
        ) from error


def coverage(path: Path) -> dict[str, Any]:
    """How many convolutions and matrix products compute in which type, as the package says, and all operations::

    {"conv": {"fp16": 9, "fp32": 0}, "gemm": {"fp16": 1, "fp32": 0}, "operations": {"conv": 9, "relu": 7, ...}}
    """
    ct = require("coremltools", "coreml", "A Core ML model")
    program = ct.utils.load_spec(str(path)).mlProgram
    found: dict[str, Counter[str]] = {family: Counter(fp16=0, fp32=0) for family in FAMILIES}
    operations: Counter[str] = Counter()
    for function in program.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                if operation.type == "const":
                    continue
                operations[operation.type] += 1
                data = operation.outputs[0].type.tensorType
                kind = {"FLOAT16": "fp16", "FLOAT32": "fp32"}.get(_name(data), _name(data).lower())
                for family in (family for family, kinds in FAMILIES.items() if operation.type in kinds):
                    found[family][kind] += 1
    return {**{family: dict(counts) for family, counts in found.items()}, "operations": dict(operations)}


def _name(tensor: Any) -> str:
    kinds = tensor.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    name: str = kinds[tensor.dataType].name
    return name


for precision in ("fp32", "fp16"):
    writers.register(f"coreml-{precision}")(Writer(write, check, ("coremltools",)))
