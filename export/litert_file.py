"""What is in a .tflite file, read from the file itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from kdcompress.optional import require

FAMILIES = {
    "conv": ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D"),
    "gemm": ("FULLY_CONNECTED", "BATCH_MATMUL"),
}
PRECISIONS = {"INT8": "int8", "FLOAT16": "fp16", "FLOAT32": "fp32"}


@dataclass(frozen=True)
class Operator:
    kind: str  # CONV_2D, ...
    type: str  # of its result: INT8, FLOAT32, ...
    name: str  # of its result
    reads: tuple[str, ...] = ()  # names of tensors
    gives: tuple[str, ...] = ()


def operators(content: bytes) -> list[Operator]:
    """The operators of a .tflite file, in the order they run in."""
    schema = require("ai_edge_litert.schema_py_generated", "litert-runtime", "Reading a .tflite file")
    kinds, types = _names(schema.BuiltinOperator), _names(schema.TensorType)
    model = schema.Model.GetRootAs(content, 0)
    found = []

    def name(tensor: Any) -> str:
        return (tensor.Name() or b"").decode()

    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs = (operator.Inputs(i) for i in range(operator.InputsLength()))
            reads = tuple(name(graph.Tensors(i)) for i in inputs if i >= 0)  # below: an input that it may do without
            results = [graph.Tensors(operator.Outputs(i)) for i in range(operator.OutputsLength())]
            gives = tuple(name(result) for result in results)
            found.append(Operator(kind, types[results[0].Type()], gives[0], reads, gives))
    return found


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def coverage(content: bytes) -> dict[str, Any]:
    """How many convolutions and matrix products compute in which type::

        {"conv": {"int8": 9, "fp16": 0, "fp32": 0}, "gemm": {...}, "leftover": 2, "transposes": 1,
         "nodes": {"CONV_2D int8": 9, ...}}

    ``leftover`` counts the operators that only quantise or dequantise.
    """
    found: dict[str, Any] = {family: {"int8": 0, "fp16": 0, "fp32": 0} for family in FAMILIES}
    nodes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for operator in operators(content):
        precision = PRECISIONS.get(operator.type, operator.type.lower())
        kinds[operator.kind] += 1
        nodes[f"{operator.kind} {precision}"] += 1
        for family, members in FAMILIES.items():
            if operator.kind in members:
                found[family][precision] = found[family].get(precision, 0) + 1
    found["leftover"] = kinds["QUANTIZE"] + kinds["DEQUANTIZE"]
    found["transposes"] = kinds["TRANSPOSE"]
    found["nodes"] = dict(nodes.most_common())
    return found
