"""OpenVINO models: read from ONNX, saved as a folder, compiled for the CPU, and what of them is in which precision."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdcompress.artifact import Artifact, replacing
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.optional import require, require_installed

if TYPE_CHECKING:
    from kdcompress.export.formats import ExportJob, Target

FILES = ("model.xml", "model.bin")
FAMILIES = {"conv": ("Convolution", "Deconvolution"), "gemm": ("FullyConnected", "MatMul")}
TYPES = {"u8": "int8", "i8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32"}


def library() -> ModuleType:
    # OpenVINO and NNCF send usage statistics from their first import on, unless this package cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino", "openvino", "An OpenVINO model")


def check() -> None:
    require_installed("openvino", "openvino", "An OpenVINO model")


def convert(job: ExportJob) -> Any:
    """The job's ONNX file as an OpenVINO model, with its metadata. Raises KDCompressError where OpenVINO refuses it."""
    try:
        return library().convert_model(job.parent.path)
    except Exception as error:  # the reader of each format has exceptions of its own
        raise KDCompressError(
            "OpenVINO cannot read this ONNX model.", where=job.parent.path, got=first_lines(error)
        ) from error


def write_model(
    model: Any, job: ExportJob, target: Target, versions: dict[str, str] | None = None, **facts: Any
) -> Artifact:
    """Save ``model`` as the target's folder: model.xml, which also holds labels and normalisation, and model.bin.

    Raises KDCompressError where nothing of it is in the target's precision.
    """
    ov = library()
    path = job.path(target, ".openvino")
    model.set_rt_info(target.precision, ["framework", "kdcompress.precision"])
    _number_names(model)
    with replacing(path) as temporary:
        temporary.mkdir()
        ov.save_model(model, temporary / FILES[0], compress_to_fp16=target.precision == "fp16")
        found = coverage(temporary)
        counted = [found["weights"]] if target.precision == "fp16" else [found[family] for family in FAMILIES]
        if not any(part.get(target.precision) for part in counted):
            raise KDCompressError(
                f"Nothing of this model is {target.precision} in OpenVINO.",
                where=path.name,
                got=", ".join(f"{count} {name}" for name, count in found["nodes"].items()),
                hint="the scheme's exclude leaves nothing to quantise, or this CPU has no int8 kernels",
            )
    provenance = {"coverage": found, "versions": {"openvino": version("openvino"), **(versions or {})}, **facts}
    return Artifact.of(path, "openvino", target.precision, job.parent.input, target=target.name, provenance=provenance)


def names_of(value: Any) -> set[str]:
    """The names of an input or output of a model, compiled or not; that of its node where it has none."""
    names: set[str] = value.get_names()
    return names or {value.get_node().get_friendly_name()}


def _number_names(model: Any) -> None:
    """OpenVINO numbers the nodes it makes through the life of the process: count anew, so that the same model gives
    the same file."""
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        made = r"[A-Z]\w*" if kind == "Constant" else kind  # a folded constant keeps its maker's name
        if re.fullmatch(rf"{made}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{index}")


def compile_model(folder: Path, threads: int = 1, **more: Any) -> Any:
    """The model in a folder, compiled for this CPU with ``options`` and ``more`` of them. Raises UsageError where a
    file is missing or damaged."""
    ov = library()
    hint = "export it again, or copy both files"
    for name in FILES:
        if not (folder / name).is_file():
            raise UsageError("The OpenVINO model is not whole.", where=folder, got=f"no {name}", hint=hint)
    try:
        return ov.Core().compile_model(folder / FILES[0], "CPU", options(threads) | more)
    except RuntimeError as error:
        raise UsageError("OpenVINO cannot load this model.", where=folder, got=first_lines(error), hint=hint) from error


def options(threads: int) -> dict[str, Any]:
    """What is not int8 computes in fp32, where OpenVINO would choose bf16 or fp16 by itself."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def coverage(folder: Path) -> dict[str, Any]:
    """How many convolutions and matrix products compute in which precision on this machine, as OpenVINO compiled them,
    by which kernels, and how many weights are stored in which type::

        {"conv": {"int8": 9, "fp16": 0, "fp32": 0}, "gemm": {...}, "leftover": 1,
         "kernels": {"brgconv_avx512_I8": 9}, "nodes": {"Convolution": 9, ...}, "weights": {"int8": 70000, "fp32": 12}}

    ``leftover`` counts the FakeQuantize nodes that fused with nothing.
    """
    import numpy as np

    nodes: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    found: dict[str, Any] = {family: {"int8": 0, "fp16": 0, "fp32": 0} for family in FAMILIES}
    compiled = compile_model(folder)
    image = compiled.input(0)
    shape = [size.get_length() if size.is_static else 1 for size in image.get_partial_shape()]
    compiled(np.zeros(shape, image.get_element_type().to_dtype()))  # with a dynamic batch, this chooses the kernels
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind, kernel = (node.get_rt_info()[key].astype(str) for key in ("layerType", "primitiveType"))
        if kind == "Const":
            continue
        nodes[kind] += 1
        for family, kinds in FAMILIES.items():
            if kind in kinds:
                # Not runtimePrecision: that is fp16 for a layer that computes in fp32 with weights stored in fp16.
                kernels[kernel] += 1
                name = TYPES.get(kernel.rpartition("_")[2].lower(), kernel)
                found[family][name] = found[family].get(name, 0) + 1
    weights: Counter[str] = Counter()
    for node in library().Core().read_model(folder / FILES[0]).get_ops():
        name = TYPES.get(node.get_element_type().get_type_name()) if node.get_type_name() == "Constant" else None
        if name:
            weights[name] += math.prod(node.get_output_shape(0))
    return {
        **found,
        "leftover": nodes["FakeQuantize"],
        "kernels": dict(kernels.most_common()),
        "nodes": dict(nodes.most_common()),
        "weights": dict(weights.most_common()),
    }


def first_lines(error: Exception) -> str:
    """What an OpenVINO exception says, without the places in its source code."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not re.match(r"(Exception from|Check '.*' failed at) ", line)]
    return " | ".join(said or lines or ["no message"])[:300]
