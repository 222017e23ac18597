"""What is said of layers, of profiles made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdcompress.bench import layers as told
from kdcompress.layers import Layer, Profile

N = 80


def times(ms, n=N, noise=0.01):
    return ms * (1 + noise * np.random.default_rng(int(1e3 * ms)).standard_normal(n))


def profile(*layers, whole=2.0):
    return Profile("onnxruntime-cpu", "1", 1, tuple(layers), times(whole))


FLOAT = profile(
    Layer("a", "Conv+Relu", times(1.0), "fp32", (1, 8, 4, 4), 50_000_000, ("conv1", "relu1")),
    Layer("b", "Conv+Add", times(0.6), "fp32", (1, 8, 4, 4), 30_000_000, ("conv2", "add")),
    Layer("r", "ReorderOutput", times(0.1)),
    Layer("c", "Gemm", times(0.1), "fp32", (1, 10), 1_000_000, ("fc",)),
)
INT8 = profile(
    Layer("a8", "QLinearConv", times(0.5), "int8", (1, 4, 4, 8), 50_000_000, ("conv1", "relu1"), 38.0),
    Layer("b8", "QLinearConv", times(0.2), "int8", (1, 4, 4, 8), 30_000_000, ("conv2",), 20.0),
    Layer("add8", "QLinearAdd", times(0.2), "int8", (1, 4, 4, 8), None, ("add",), 19.5),
    Layer("q", "DequantizeLinear", times(0.05), "fp32"),
    Layer("c8", "Gemm", times(0.1), "fp32", (1, 10), 1_000_000, ("fc",), math.inf),
    whole=1.2,
)
MAIN = ("conv1", "conv2", "fc")


def test_shares_rates_and_totals():
    found = told.summary(FLOAT, {"fp32": 100.0, "int8": 400.0}, MAIN)
    rows = {row["name"]: row for row in found["layers"]}
    assert sum(row["share"] for row in found["layers"]) == pytest.approx(1)
    assert rows["a"]["share"] == pytest.approx(1 / 1.8, rel=0.01) and rows["a"]["of"] == "conv1"
    assert rows["a"]["gmacs_per_s"] == pytest.approx(50, rel=0.01) and rows["a"]["of_peak"] == pytest.approx(0.5, 0.01)
    assert rows["r"]["gmacs_per_s"] is rows["r"]["of_peak"] is None
    for row in found["layers"]:
        assert row["low_ms"] <= row["median_ms"] <= row["high_ms"]
    assert found["sum_over_whole"]["ratio"] == pytest.approx(0.9, rel=0.01)
    assert found["sum_over_whole"]["low"] < 0.9 < found["sum_over_whole"]["high"]
    total = {each["precision"]: each for each in found["by_precision"]}
    assert total["fp32"]["layers"] == 3 and total["fp32"]["macs_share"] == 1 and total[""]["macs_share"] == 0


def test_a_layer_that_is_faster_than_the_peak_is_the_peak():
    found = told.summary(FLOAT, {"fp32": 10.0})
    assert found["peak"]["fp32"]["by"] == "a layer"
    assert max(row["of_peak"] or 0 for row in found["layers"]) == 1
    assert told.summary(FLOAT, {"fp32": 1e4})["peak"]["fp32"] == {"gmacs_per_s": 1e4, "by": "a matrix product"}
    assert {row["of_peak"] for row in told.summary(FLOAT, {})["layers"]} == {None}


def test_files_are_matched_by_what_their_layers_were_made_of():
    found = {group.name: group for group in told.groups(INT8, FLOAT, MAIN)}
    assert list(found) == ["conv1", "conv2", "fc"]
    assert [layer.name for layer in found["conv2"].mine] == ["b8", "add8"]
    assert [layer.name for layer in found["conv2"].other] == ["b"]
    assert told.alone(INT8, FLOAT)["layers"] == ["q"] and told.alone(FLOAT, INT8)["layers"] == ["r"]
    across = profile(Layer("all", "Fused", times(1.0), made_of=("conv1", "relu1", "add", "conv2")))
    assert [len(group.other) for group in told.groups(across, INT8, MAIN)] == [3]
    assert told.groups(profile(Layer("x", "Conv", times(1.0))), FLOAT) == []


def test_what_is_faster_slower_or_not_shown_to_be():
    found = {row["name"]: row for row in told.changes(INT8, FLOAT, MAIN)}
    assert (found["conv1"]["verdict"], found["conv1"]["precision"]) == ("faster", "int8")
    assert found["conv1"]["low"] < 0.5 < found["conv1"]["high"] and found["conv1"]["other_precision"] == "fp32"
    assert found["conv1"]["saved_ms"] == pytest.approx(0.5, rel=0.02)
    assert found["fc"]["verdict"] == "no difference shown"
    assert told.changes(FLOAT, INT8, MAIN)[0]["verdict"] == "slower"


def test_steps_of_the_clock_widen_what_is_said():
    """Two layers of 5 and 6 steps may take the same time."""
    one = profile(Layer("a", "Conv", np.full(N, 0.005), made_of=("x",)), Layer("b", "Add", np.full(N, 0.009)))
    two = profile(Layer("a", "Conv", np.full(N, 0.006), made_of=("x",)), Layer("b", "Add", np.full(N, 0.007)))
    one.layers[1].times[::2] = 0.010
    two.layers[1].times[::2] = 0.006
    assert told.resolution(one) == pytest.approx(0.001)
    row = told.summary(one, {})["layers"][0]
    assert (row["low_ms"], row["high_ms"]) == pytest.approx((0.0045, 0.0055))
    assert told.changes(one, two)[0]["verdict"] == "no difference shown"


def test_what_stayed_float_and_where_errors_begin():
    assert told.stayed_float(INT8, MAIN) == ["fc"] and told.stayed_float(FLOAT, MAIN) == []
    assert told.falls(INT8, MAIN) == [{"name": "conv2", "before_db": 38.0, "snr_db": 20.0}]
    assert told.falls(FLOAT) == []
    bad = profile(Layer("a", "QLinearConv", times(1.0), "int8", snr_db=3.0))
    assert told.falls(bad) == [{"name": "a", "before_db": told.ROUNDING_DB, "snr_db": 3.0}]
    nameless = profile(Layer("a", "Convolution", times(1.0), "int8"), Layer("b", "InnerProduct", times(1.0), "fp32"))
    assert told.stayed_float(nameless) == ["b"]


@pytest.mark.parametrize(
    ("kind", "does"),
    [
        ("QLinearConv", True),
        ("CONV_2D", True),
        ("Fully Connected (NC, F32) GEMM", True),
        ("Convert (NC, F32, QS8)", False),
        ("ConvertTensor", False),
    ],
)
def test_what_multiplies_where_no_multiply_accumulates_are_known(kind, does):
    assert told.multiplies(Layer("a", kind, times(1.0))) == does
