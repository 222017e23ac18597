"""XNNPACK's operators and those of files."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from kdcompress.export.xnnpack_layers import HALF_MS, Event, Operator, known, layers, matched

CONV, FC = "Convolution (NHWC, QC8) IGEMM", "Fully Connected (NC, QS8, QC8W) GEMM"


def test_what_is_fused_and_what_is_added():
    kinds = ["QUANTIZE", "PAD", "CONV_2D", "ADD", "TRANSPOSE", "MEAN", "FULLY_CONNECTED"]
    events = ["Convert (NC)", CONV, "Add (ND)", "Clamp (NC)", "Transpose (ND, X8) Transpose", "Mean (ND) Reduce", FC]
    assert matched(events, kinds) == [0, 2, 3, None, 4, 5, 6]


def test_the_names_of_both_runtimes_are_the_same_operators():
    names = [("CONV_2D", "XNNConv2d"), ("DEPTHWISE_CONV_2D", "XNNDepthwiseConv2d"), ("MUL", "XNNMultiply"),
             ("FULLY_CONNECTED", "XNNFullyConnected"), ("HARD_SWISH", "XNNHardswish")]  # fmt: skip
    events = [CONV, "Convolution (NHWC, QC8) DWConv", "Multiply (ND)", FC, "Invalid Unary Op"]
    for which in range(2):
        assert matched(events, [each[which] for each in names]) == [0, 1, 2, 3, 4]


def test_a_convolution_of_one_pixel_is_a_matrix_product():
    assert matched([CONV, FC, "Copy (NC, X32)", FC], ["CONV_2D", "CONV_2D", "CONCATENATION", "FULLY_CONNECTED"]) == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_nothing_is_sure_where_one_that_multiplies_is_missing():
    assert matched([CONV, "Add (ND)", FC], ["CONV_2D", "CONV_2D", "ADD", "FULLY_CONNECTED"]) == [None] * 3
    assert matched([CONV, CONV, "Add (ND)"], ["CONV_2D", "ADD"]) == [None] * 3


def test_what_may_be_folded_into_a_layer_is_not_compared(tmp_path):
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="activation"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="second"),
        helper.make_node("HardSigmoid", ["c"], ["d"], name="elsewhere"),
        helper.make_node("Conv", ["d", "w"], ["logits"], name="third"),
    ]
    values = [helper.make_tensor_value_info(name, floats, [1, 4, 2, 2]) for name in ("image", "logits")]
    weight = onnx.numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
    made = helper.make_graph(nodes, "three", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    parent = SimpleNamespace(path=tmp_path / "a.onnx", input=SimpleNamespace(name="image"))
    operators = [Operator("CONV_2D", (i,), i + 1, macs=64) for i in range(3)]
    found = known(operators, parent, np.zeros((1, 4, 2, 2), np.float32), 0)
    assert found.tensors == ["b", "c", "logits"] and found.same == [0, 2] and not found.note


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        (CONV, "int8"),
        (FC, "int8"),
        ("Convolution (NHWC, F32) IGEMM", "fp32"),
        ("Fully Connected (NC, F32, QC8W) GEMM", "fp32"),  # int8 is how the weights are stored
        ("Fully Connected (NC, QD8, F32, QC4W) GEMM", "int8"),
        ("Convolution (NHWC, F16) IGEMM", "fp16"),
        ("Max Pooling (NHWC, S8)", "int8"),
        ("Transpose (ND, X32)", ""),
        ("Add (ND)", ""),
    ],
)
def test_the_type_of_the_arithmetic(name, precision):
    (found,) = layers([Event(name, np.zeros(3))], [], None, {})
    assert found.precision == precision and found.name == f"{name} #1" and (found.times == HALF_MS).all()
