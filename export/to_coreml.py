"""PyTorch -> Core ML: an ML program in an .mlpackage folder.

The input ``image`` is an image for the layout ``uint8-nhwc`` (RGB or grey, what Vision and Xcode hand over: any camera
frame is fitted by the system) and a float array [1, C, H, W] in 0..1 for ``float-nchw``. The normalisation is in the
graph. The outputs are float32, with the batch of 1, under the names of the spec: of a classifier, ``logits``
[1, classes]. The labels are in the model's metadata, in their order.

int8 has weights and activations in int8, which the Neural Engine of an A17 Pro, an M4 and later computes in; what is
left in float, and everything on older ones, is fp16.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress import __version__
from kdcompress.artifact import Artifact, replacing
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.formats import ExportJob, Scheme, Target, Writer, writers
from kdcompress.export.planar import planar
from kdcompress.export.pt2e import own_weights, quantise, quantizer
from kdcompress.export.quiet import quiet
from kdcompress.optional import require, require_installed

if TYPE_CHECKING:
    from collections.abc import Iterator

DEQUANTISERS = {"dequantize", "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"}
OPERANDS = ("x", "y", "weight")  # of a layer
COLOURS = {1: "GRAYSCALE", 3: "RGB"}  # by channels
SINCE = {"fp32": "iOS 16, macOS 13", "fp16": "iOS 16, macOS 13", "int8": "iOS 17, macOS 14"}
FAMILIES = {"conv": ("conv", "conv_transpose"), "gemm": ("linear", "matmul")}


def check() -> None:
    require_installed("coremltools", "coreml", "A Core ML model")


def check_int8() -> None:
    check()
    require_installed("executorch", "executorch", "An int8 Core ML model")  # its quantiser


def write(job: ExportJob, target: Target) -> Artifact:
    spec = job.parent.input
    path = job.path(target, ".mlpackage")
    with replacing(path) as temporary, quiet():
        model = convert(job, target)
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
    layers = sum((Counter(found[family]) for family in FAMILIES), Counter())
    if set(+layers) != {target.precision} and not (target.precision == "int8" and layers["int8"]):
        raise KDCompressError(f"The layers are not {target.precision}.", where=path.name, got=found)
    provenance: dict[str, Any] = {
        "coverage": found,
        "versions": {name: version(name) for name in ("coremltools", "torch")},
        "input": "image: an image" if spec.layout == "uint8-nhwc" else "image: float [1, C, H, W], 0..1",
        "minimum_deployment_target": SINCE[target.precision],
    }
    if scheme := target.options.scheme:
        images = min(len(job.calibration), scheme.images)
        provenance |= {"scheme": scheme.model_dump(mode="json"), "calibration_images": images}
    return Artifact.of(path, "coreml", target.precision, spec, target=target.name, provenance=provenance)


def convert(job: ExportJob, target: Target) -> Any:
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
    scheme = target.options.scheme
    int8 = quantizer(scheme) if scheme else None  # it refuses before the long part
    net, example = planar(job.module, spec)
    shape = tuple(example.shape)
    if spec.layout == "uint8-nhwc":
        image = ct.ImageType(spec.name, shape=shape, color_layout=getattr(ct.colorlayout, COLOURS[spec.channels]))
    else:
        image = ct.TensorType(spec.name, shape=shape, dtype=np.float32)
    if scheme is None:
        with torch.inference_mode():
            source = torch.jit.trace(net, example, check_trace=False)
    else:
        own_weights(net)
        graph = quantise(net, int8, images(job, scheme))
        source = torch.export.export(graph, (example,)).run_decompositions({})
    try:
        return ct.convert(
            source,
            inputs=[image],
            outputs=[ct.TensorType(output.name, dtype=np.float32) for output in spec.outputs],
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16 if scheme is None else ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32 if target.precision == "fp32" else ct.precision.FLOAT16,
            skip_model_load=True,
        )
    except Exception as error:  # coremltools' errors share no base class
        raise KDCompressError(
            "Core ML cannot take this model.",
            where=type(job.module).__name__,
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            hint="change this operator in the model, or leave this target out",
        ) from error


def images(job: ExportJob, scheme: Scheme) -> Iterator[np.ndarray]:
    """The scheme's calibration images one by one, as ``planar`` takes them."""
    for batch in job.batches(scheme):
        for image in batch:
            yield image[None] if batch.dtype == np.float32 else image.transpose(2, 0, 1)[None].astype(np.float32)


def coverage(path: Path) -> dict[str, Any]:
    """How many convolutions and matrix products compute in which type, as the package says, and all operations::

    {"conv": {"fp16": 9, "fp32": 0}, "gemm": {"fp16": 1, "fp32": 0}, "operations": {"conv": 9, "relu": 7, ...}}

    A layer is int8 where all that it multiplies was int8 just before.
    """
    ct = require("coremltools", "coreml", "A Core ML model")
    program = ct.utils.load_spec(str(path)).mlProgram
    found: dict[str, Counter[str]] = {family: Counter(fp16=0, fp32=0) for family in FAMILIES}
    operations: Counter[str] = Counter()
    for function in program.functions.values():
        for block in function.block_specializations.values():
            makers = {out.name: operation.type for operation in block.operations for out in operation.outputs}
            for operation in block.operations:
                if operation.type == "const":
                    continue
                operations[operation.type] += 1
                data = operation.outputs[0].type.tensorType
                kind = {"FLOAT16": "fp16", "FLOAT32": "fp32"}.get(_name(data), _name(data).lower())
                multiplied = [operation.inputs[key].arguments for key in OPERANDS if key in operation.inputs]
                if all(makers.get(part.name) in DEQUANTISERS for parts in multiplied for part in parts):
                    kind = "int8"
                for family in (family for family, kinds in FAMILIES.items() if operation.type in kinds):
                    found[family][kind] += 1
    return {**{family: dict(counts) for family, counts in found.items()}, "operations": dict(operations)}


def _name(tensor: Any) -> str:
    kinds = tensor.DESCRIPTOR.fields_by_name["dataType"].enum_type.values_by_number
    name: str = kinds[tensor.dataType].name
    return name


for precision in ("fp32", "fp16"):
    writers.register(f"coreml-{precision}")(Writer(write, check, ("coremltools",)))
writers.register("coreml-int8")(Writer(write, check_int8, ("coremltools", "executorch", "torchao")))
