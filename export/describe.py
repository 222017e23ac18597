"""What is in a model file: for `kdcompress inspect`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdcompress.artifact import Artifact, InputSpec, sha256
from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.export import graph
from kdcompress.export.formats import require_gpu
from kdcompress.optional import is_installed, require


def describe(path: Path) -> dict[str, Any]:
    """Facts about an ONNX file, an engine, or a file of weights.

    Raises UsageError for any other file and for one that is damaged.
    """
    if not path.is_file():
        raise UsageError("There is no such file.", where=path)
    if path.suffix not in KINDS:
        raise UsageError("This kind of file cannot be inspected.", where=path, allowed=", ".join(KINDS))
    facts = KINDS[path.suffix](path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path), **facts}


def artifact_of(path: Path) -> Artifact:
    """The artefact in an ONNX file that kdcompress wrote, from the file alone."""
    facts = graph.metadata(graph.load(path))
    if "kdcompress.input" not in facts:
        raise UsageError(
            "The ONNX file does not say what its input is.",
            where=path,
            hint="only files written by kdcompress carry that; `kdcompress inspect` shows the rest",
        )
    spec = InputSpec.from_json(json.loads(facts["kdcompress.input"]))
    return Artifact.of(path, "onnx", facts["kdcompress.precision"], spec)


def _onnx(path: Path) -> dict[str, Any]:
    import onnx

    model = graph.load(path, full_check=True)
    weights: Counter[str] = Counter()
    for initializer in model.graph.initializer:
        weights[onnx.TensorProto.DataType.Name(initializer.data_type).lower()] += math.prod(initializer.dims)
    external = sorted(
        {
            entry.value
            for initializer in onnx.load(path, load_external_data=False).graph.initializer
            for entry in initializer.external_data
            if entry.key == "location"
        }
    )
    constants = {initializer.name for initializer in model.graph.initializer}
    return {
        "format": "onnx",
        "precision": _precision(weights),
        "inputs": {value.name: _tensor(value) for value in model.graph.input if value.name not in constants},
        "outputs": {value.name: _tensor(value) for value in model.graph.output},
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "ir_version": model.ir_version,
        "producer": " ".join((model.producer_name, model.producer_version)).strip(),
        "parameters": sum(weights.values()),
        "weights": dict(weights.most_common()),
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "external_data": external,
        "metadata": graph.metadata(model),
    }


def _precision(weights: Counter[str]) -> str:
    """The type that most weights are stored in."""
    name = weights.most_common(1)[0][0] if weights else "none"
    return {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}.get(name, name)


def _tensor(value: Any) -> str:
    import onnx

    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {shape}".replace("'", "")


def _engine(path: Path) -> dict[str, Any]:
    """The header of a TensorRT-RTX engine, as observed in version 1.7; the layout is not documented."""
    header = path.open("rb").read(64)
    if len(header) < 64:
        raise UsageError("The file is too short to be an engine.", where=path, got=f"{len(header)} bytes")
    if header[:4] != b"vtrt":
        return {"format": "tensorrt" if header[1:4] == b"trt" else "unknown", "magic": header[:4].hex()}
    size = int.from_bytes(header[16:24], "little")
    facts = {"format": "tensorrt-rtx", "version": ".".join(map(str, header[24:28])), "bytes_in_header": size}
    if size != path.stat().st_size:
        raise UsageError("The engine is cut off or damaged.", where=path, got=path.stat().st_size, allowed=size)
    if is_installed("tensorrt_rtx"):
        facts["runs_here"] = _validity(path)
    return facts


def _validity(path: Path) -> str:
    try:
        require_gpu("validity is judged for the GPU at hand")
    except RuntimeMissingError as error:
        return error.what
    trt = require("tensorrt_rtx", "tensorrt-rtx", "Reading an engine")
    validity, reasons = trt.Runtime(trt.Logger(trt.Logger.ERROR)).get_engine_validity(path.read_bytes())
    return f"{validity.name}, {reasons}"


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UsageError("The file is not valid safetensors.", where=path, got=error) from error
    return {"format": "safetensors", **_listing(tensors), "metadata": metadata}


def _pt(path: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own
        raise UsageError(
            "The file cannot be read as weights alone.",
            where=path,
            got=str(error).strip().splitlines()[0][:200],
            hint="save model.state_dict(), or use safetensors",
        ) from error
    return {"format": "pt", **_listing(_tensors(found))}


def _tensors(value: Any, prefix: str = "") -> dict[str, tuple[str, list[int]]]:
    if hasattr(value, "shape"):
        return {prefix or "tensor": (str(value.dtype).removeprefix("torch."), list(value.shape))}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found: dict[str, tuple[str, list[int]]] = {}
    for key, part in items:
        found |= _tensors(part, f"{prefix}.{key}" if prefix else str(key))
    return found


def _listing(tensors: dict[str, tuple[str, list[int]]]) -> dict[str, Any]:
    return {
        "parameters": sum(math.prod(shape) for _, shape in tensors.values()),
        "tensors": {name: f"{dtype.lower()} {list(shape)}" for name, (dtype, shape) in tensors.items()},
    }


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".onnx": _onnx,
    ".engine": _engine,
    ".plan": _engine,
    ".safetensors": _safetensors,
    ".pt": _pt,
    ".pth": _pt,
}
