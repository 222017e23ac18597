"""How many multiply-accumulates a second this machine's CPU does at best, by precision."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from kdcompress.export.run_onnxruntime import open_session_of

SIDE = 512  # of two square matrices: both fit a core's second-level cache in int8, and nearly in fp32
SECONDS = 0.3
LEAST = 5  # products


def peak(threads: int) -> dict[str, float]:
    """GMAC/s of ONNX Runtime's product of two large matrices, the fastest of several: fp32, and int8 of uint8 by int8
    as convolutions have it."""
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((2, SIDE, SIDE)).astype(np.float32)
    integers = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8), rng.integers(-127, 128, (SIDE, SIDE), dtype=np.int8)
    return {
        "fp32": _fastest("MatMul", floats[0], floats[1], np.float32, threads),
        "int8": _fastest("MatMulInteger", *integers, np.int32, threads),
    }


def _fastest(kind: str, left: np.ndarray, right: np.ndarray, gives: type, threads: int) -> float:
    import onnx

    helper, numbers = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [helper.make_node(kind, ["left", "right"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("left", numbers(left.dtype), left.shape)],
        [helper.make_tensor_value_info("product", numbers(np.dtype(gives)), (SIDE, SIDE))],
        [onnx.numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session_of(model, ["product"], threads)
    took: list[float] = []
    begun = perf_counter()
    while len(took) < LEAST or perf_counter() - begun < SECONDS:
        start = perf_counter()
        session.run(None, {"left": left})
        took.append(perf_counter() - start)
    return SIDE**3 / min(took) / 1e9
