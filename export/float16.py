"""fp32 ONNX -> fp16 ONNX: weights and layers in half, preprocessing and logits in fp32."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from kdcompress.export import graph


def to_float16(model: Any) -> Any:
    """A copy whose layers compute in fp16; those that multiply int8 go on doing so.

    The input keeps its type, pixels are normalised in fp32 and cast once; logits are cast back to
    fp32. Weights below fp16's normal range are raised to 1e-7, as the converter does.
    """
    from onnxconverter_common import float16

    layer = graph.first_layer(model)
    before = graph.ancestors(model, layer) if layer is not None else []
    # A cast between DequantizeLinear and its layer would keep TensorRT from fusing them.
    keep = [node.name for node in before if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    if regions := [node.name for node in model.graph.node if node.op_type == graph.REGIONS]:
        keep += [*regions, *(node.name for node in graph.tail(model))]  # pixels of regions, which choices are made by
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each value that is clipped
        half = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=keep)
    _fill_with_halves(half, keep)
    _give_floats(half)
    graph.strip(half)
    return half


def _give_floats(model: Any) -> None:
    """Outputs of nodes that stay in fp32, which the converter casts to fp16 as if others read them."""
    import onnx

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    for output in model.graph.output:
        if output.type.tensor_type.elem_type == half:
            output.type.tensor_type.elem_type = single
            casts[output.name].attribute[0].i = single


def _fill_with_halves(model: Any, keep: list[str]) -> None:
    """ConstantOfShape, which the converter leaves as it is while it takes what it gives for fp16."""
    import onnx

    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.name in keep:
            continue
        value = next((attribute.t for attribute in node.attribute), onnx.numpy_helper.from_array(np.zeros(1, "f")))
        if value.data_type == onnx.TensorProto.FLOAT:
            filled = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(value).astype(np.float16))
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", filled))
