""".tflite files layer by layer, by LiteRT's profiler and XNNPACK's in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError
from kdcompress.export import graph
from kdcompress.export.layers import readers
from kdcompress.export.litert_file import PRECISIONS
from kdcompress.export.litert_profiler import Profiled
from kdcompress.export.quiet import native_errors
from kdcompress.export.run_litert import LiteRTRunner, check, library
from kdcompress.export.turns import in_turns
from kdcompress.export.value_errors import value_errors
from kdcompress.export.xnnpack_layers import Event, Operator, Parent, known, layers, told
from kdcompress.layers import Profile
from kdcompress.optional import require

RUNTIME = "litert"
THROUGH_C = (
    "Layers are timed by LiteRT's compiled model, the whole by its interpreter: Python has no profiler. Both run "
    "XNNPACK's kernels."
)
VALUES = (
    "Errors are of values that LiteRT's own kernels compute, without XNNPACK: that gives no values between its layers. "
    "There is none where the converter may have folded what is behind a layer into it."
)


@readers.register(RUNTIME)
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    """Each query runs with the profiler and without it, in turns.

    Raises UsageError where the file cannot be loaded, KDCompressError where the profiler told of other operators for
    one query than for another, or is that of another LiteRT.
    """
    check()
    with LiteRTRunner(artifact, threads) as runner, native_errors(), Profiled(artifact.path, threads) as profiled:
        (whole, _), (_, ran) = in_turns([runner.infer, profiled.run], queries)
    names = [[(name, delegated) for name, delegated, _ in each] for each in ran]
    if any(each != names[0] for each in names):
        raise KDCompressError("LiteRT ran other operators for one query than for another.", where=artifact.path)
    ms = np.array([[us / 1e3 for _, _, us in each] for each in ran]).T
    of_file, entry = operators(artifact.path.read_bytes(), parent)
    model, errors = None, dict[int, float]()
    if parent is not None:
        model = known(of_file, parent, queries[0], entry)
        errors = _errors(artifact, of_file, model, parent, queries)
    events = [Event(name, ms[i]) for i, (name, _) in enumerate(names[0])]
    found = layers(events, of_file, model, errors)
    notes = (THROUGH_C, *told(found, model), *([VALUES] if errors else []))
    return Profile(RUNTIME, version("ai-edge-litert"), threads, found, whole, notes)


def operators(content: bytes, parent: Artifact | None = None) -> tuple[list[Operator], int]:
    """Those of the file, in the order in which they run, and the number of its input."""
    schema = require("ai_edge_litert.schema_py_generated", "litert-runtime", "Reading a .tflite file")
    kinds, types = (
        {value: name for name, value in vars(enum).items() if isinstance(value, int)}
        for enum in (schema.BuiltinOperator, schema.TensorType)
    )
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    of = model.subgraphs[0]
    names = [node.name for node in graph.load_named(parent.path).graph.node] if parent is not None else []
    found = []
    for operator in of.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = [of.tensors[i] for i in operator.inputs if i >= 0]
        output = of.tensors[operator.outputs[0]]
        shapes = [tuple(map(int, each.shape)) if each.shape is not None else () for each in (*inputs, output)]
        precision = PRECISIONS.get(types[output.type], "")
        macs = _macs(kind, shapes[:-1], shapes[-1])
        node = _node((output.name or b"").decode(), names) if macs else ""
        reads = tuple(int(i) for i in operator.inputs)
        found.append(Operator(kind, reads, int(operator.outputs[0]), shapes[-1], precision, macs, node))
    return found, int(of.inputs[0])


def _macs(kind: str, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> int | None:
    """Weights are [out, height, width, in], those of depthwise convolutions [1, height, width, out]."""
    if kind == "CONV_2D":
        return math.prod(output) * math.prod(inputs[1][1:])
    if kind == "DEPTHWISE_CONV_2D":
        return math.prod(output) * math.prod(inputs[1][1:3])
    if kind == "TRANSPOSE_CONV":  # output shape, weights, input
        return math.prod(inputs[2]) * math.prod(inputs[1][:3])
    return math.prod(output) * inputs[0][-1] if kind in ("FULLY_CONNECTED", "BATCH_MATMUL") else None


def _node(tensor: str, names: Sequence[str]) -> str:
    """The node of the parent that is called after the module which a tensor is of: net.0 of Sequential_net/Conv2d_0"""
    scope = tensor.rsplit(".Named/", 1)[-1].partition(";")[0].split("/")[1:]  # the first is the module as a whole
    for name in names:
        path = name.split(".")
        if len(path) == len(scope) and all(part.endswith(f"_{own}") for part, own in zip(scope, path, strict=True)):
            return name
    return ""


def _errors(
    artifact: Artifact, of_file: Sequence[Operator], model: Parent, parent: Artifact, queries: Sequence[np.ndarray]
) -> dict[int, float]:
    plain = library().OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with native_errors():
        interpreter = library().Interpreter(
            model_path=str(artifact.path),
            num_threads=1,
            experimental_op_resolver_type=plain,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    details = {each["index"]: each for each in interpreter.get_tensor_details()}
    wanted = {i: model.tensors[i] for i in model.same}

    def values(query: np.ndarray) -> Mapping[int, np.ndarray]:
        interpreter.set_tensor(image["index"], query)
        interpreter.invoke()
        return {i: _value(interpreter, details[of_file[i].gives]) for i in wanted}

    return value_errors(model.model, parent, wanted, queries, values)


def _value(interpreter: Any, told: dict[str, Any]) -> np.ndarray:
    """Of a tensor, in floats, and with the channels first."""
    value = interpreter.get_tensor(told["index"])
    scales = told["quantization_parameters"]
    if scales["scales"].size == 1:
        value = (value.astype(np.float32) - scales["zero_points"][0]) * scales["scales"][0]
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
