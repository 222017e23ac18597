"""Parity: numbers, verdicts and reasons."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdcompress.artifact import InputSpec
from kdcompress.parity import TOLERANCES, Tolerance, compared, parity

SPEC = InputSpec(4, 4, 1, (0.5,), (0.5,), ("a", "b", "c"))


class Fixed:
    """A runner that answers with the row sums of its input, times a factor, plus a shift of class 0."""

    name = "fixed"

    def __init__(self, factor: float = 1.0, shift: float = 0.0):
        self.factor, self.shift = factor, shift

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None

    def infer(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        logits = x.reshape(len(x), -1)[:, :3].astype(np.float32) * self.factor
        logits[:, 0] += self.shift
        return (logits,)

    def details(self):
        return {}


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)


def test_the_same_runner_passes_exactly():
    found = parity(Fixed(), Fixed(), images(300), SPEC)
    assert found and found.n == 300 and found.max_abs == 0 and found.matched == 1 and found.why is None
    assert json.loads(json.dumps(found.to_json()))["passed"] is True


@pytest.mark.parametrize(
    ("precision", "factor", "passes"),
    [
        ("fp32", 1.00005, True),
        ("fp32", 1.001, False),
        ("fp16", 1.001, True),
        ("fp16", 1.1, False),
        ("int8", 1.3, True),
    ],
)
def test_tolerances_are_relative_to_the_logits(precision, factor, passes):
    assert bool(parity(Fixed(), Fixed(factor), images(100), SPEC, precision)) is passes


def test_int8_is_judged_by_agreement():
    found = parity(Fixed(), Fixed(shift=120), images(200), SPEC, "int8")
    assert not found and "same arg max" in found.why and found.matched < 0.95


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_fail_with_the_reason(value):
    good = np.ones((4, 3), np.float32)
    bad = good.copy()
    bad[2, 1] = value
    for expected, got, name in ((good, bad, "other"), (bad, good, "reference")):
        found = compared((expected,), (got,), "classification", TOLERANCES["int8"])
        assert not found and f"{name} runner" in found.why and "1 of 4" in found.why


def test_ties_do_not_count_as_disagreement():
    expected = np.array([[1.0, 1.0 + 1e-7, 0.0]], np.float32)
    got = np.array([[1.0 + 1e-6, 1.0, 0.0]], np.float32)
    assert compared((expected,), (got,), "classification", TOLERANCES["fp32"])
    assert not compared((expected,), (got,), "classification", Tolerance(relative=None, agreement=1.0))


def test_shapes_and_emptiness():
    pairs = {"shapes differ": ((2, 3), (2, 4)), "no images": ((0, 3), (0, 3))}
    for why, (one, other) in pairs.items():
        assert why in compared((np.ones(one),), (np.ones(other),), "classification", TOLERANCES["fp32"]).why


def test_each_output_counts_and_each_label_is_a_decision():
    right = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    wrong = right.copy()
    wrong[3, 2] *= -1
    found = compared((right,), (wrong,), "multi-label", TOLERANCES["int8"])
    assert found and found.matched == 1 - 1 / 200
    assert "same answer to 99.50% of the labels" in compared((right,), (wrong,), "multi-label").why
    assert "of the largest" in compared((right, right), (right, right + 1), "classification").why


def test_a_constant_zero_reference_is_no_division_by_zero():
    assert compared((np.zeros((2, 3)),), (np.zeros((2, 3)),), "classification", TOLERANCES["fp32"])
