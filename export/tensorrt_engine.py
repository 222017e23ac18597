"""What is done with an engine once it is built, where its GPU is: loading, looking at its layers, giving it weights.

TensorRT 10.12 to 11 and TensorRT-RTX have the same Python interface here; the module that is handed in is either.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import graph

# How the inspector writes types: "Half" or, of a tensor with a layout, "Row major linear FP16 format".
TYPES = {"int8": r"\bint8\b", "fp16": r"\b(fp16|half)\b", "fp32": r"\b(fp32|float)\b"}  # the narrowest first
MOVES = ("Reformat", "Constant", "NoOp", "Shuffle", "Cast", "Signal", "Wait")  # layers that compute nothing


def load_engine(trt: ModuleType, blob: bytes, log: Any, where: Path | str, version_compatible: bool = False) -> Any:
    """The ICudaEngine. Raises UsageError where it was built for another GPU or another version, or is damaged."""
    runtime = trt.Runtime(log)
    if version_compatible:
        runtime.engine_host_code_allowed = True  # such an engine carries a runtime of its own
    engine = runtime.deserialize_cuda_engine(blob)
    if engine is None:
        raise UsageError(
            f"{trt.__name__} {trt.__version__} cannot load this engine.",
            where=where,
            got=" | ".join(log.lines[:3]) or None,
            hint="an engine runs with the version and on the kind of GPU it was built for: build it again here",
        )
    return engine


def information(trt: ModuleType, engine: Any, batch: int | None = None) -> dict[str, Any]:
    """The engine inspector's JSON: ``Layers``, each with its name, type, tensors and tactic where the engine was built
    with detailed verbosity. Of dynamic shapes, for ``batch`` images or as at the profile's optimum: without a shape
    there are no formats."""
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context() if engine.num_optimization_profiles else None
    if context is not None:
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                usual = tuple(engine.get_tensor_profile_shape(name, 0)[1])
                context.set_input_shape(name, (batch or usual[0], *usual[1:]))
        inspector.execution_context = context
    found: dict[str, Any] = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return found


def as_built(found: dict[str, Any]) -> dict[str, int]:
    """How many of the inspector's layers compute in which type, by the narrowest that they read, write or hold::

        {"int8": 9, "fp16": 2, "fp32": 1}

    Layers that only move data are left out, and those of which the inspector says no type.
    """
    counts: Counter[str] = Counter()
    for layer in found.get("Layers", []):
        if not isinstance(layer, dict) or layer.get("LayerType") in MOVES:
            continue
        kind = type_of(layer)
        if kind:
            counts[kind] += 1
    return dict(counts)


def type_of(layer: Mapping[str, Any]) -> str | None:
    """The narrowest type that one of the inspector's layers reads, writes or holds; None where it says none."""
    tensors = [*(layer.get("Inputs") or []), *(layer.get("Outputs") or [])]
    said = [
        str(value)
        for tensor in tensors
        if isinstance(tensor, dict)
        for key, value in tensor.items()
        if re.search("format|datatype", key, re.IGNORECASE)  # TensorRT 10 has one key, 11 splits it
    ]
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        said.append(str(weights.get("Type")))
    text = " ".join(said)
    return next((name for name, pattern in TYPES.items() if re.search(pattern, text, re.IGNORECASE)), None)


def hold_to(precision: str, counts: dict[str, int]) -> None:
    """Raise KDCompressError where the engine as built is not in that precision: of fp32, where a layer is narrower; of
    fp16 and int8, where no layer is. An inspector that says no types is believed to have none to say."""
    narrower = [name for name in ("int8", "fp16") if counts.get(name)]
    wrong = bool(narrower) if precision == "fp32" else bool(counts) and precision not in counts
    if wrong:
        raise KDCompressError(
            f"The engine is not {precision} as built.",
            got=", ".join(f"{count} layers in {name}" for name, count in counts.items()),
            hint="`kdcompress inspect` lists its layers; build it again, or with another version of TensorRT",
        )


def refit(trt: ModuleType, blob: bytes, onnx_file: Path, log: Any, version_compatible: bool = False) -> bytes:
    """The same engine with the weights of ``onnx_file``, without building: seconds in place of minutes. The file is
    of the same network in the same precision, as ``engine_source`` gives it, and the engine was built with
    ``options.refit``.

    Raises UsageError where the engine takes no weights, KDCompressError where these do not fit it.
    """
    graph.load(onnx_file, full_check=True)
    engine = load_engine(trt, blob, log, onnx_file, version_compatible)
    if not engine.refittable:
        raise UsageError("This engine cannot take other weights.", hint="set options.refit in its target and build it")
    refitter = trt.Refitter(engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    taken = parser.refit_from_file(str(onnx_file))
    missing = refitter.get_missing_weights()
    if not taken or missing or not refitter.refit_cuda_engine():
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise KDCompressError(
            "The weights do not fit the engine.",
            where=onnx_file,
            got="; ".join(errors) or (f"missing: {', '.join(missing)}" if missing else " | ".join(log.lines[:3])),
            hint="only the same network, exported by the same version in the same precision: else build it again",
        )
    config = engine.create_serialization_config()
    config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    if remain := trt.SerializationFlag.__members__.get("INCLUDE_REFIT"):  # of later versions of TensorRT 10
        config.set_flag(remain)
    return bytes(engine.serialize_with_config(config))
