"""fp32 ONNX -> fp16 ONNX: weights and layers in half, preprocessing and logits in fp32."""

from __future__ import annotations

import warnings
from typing import Any

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each value that is clipped
        half = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=keep)
    graph.strip(half)
    return half
