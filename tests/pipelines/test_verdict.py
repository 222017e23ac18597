"""What may ship and what leads."""

import pytest

from kdcompress.pipelines.verdict import failures, margin
from kdcompress.report.present import sentences
from kdcompress.report.rows import Row

EVEN = [1.0, 1.1, 0.9, 1.05] * 20


def row(name, scale=None, status="measured", role="student"):
    latency = None
    if scale:
        samples = [scale * value for value in EVEN]
        middle = scale * 1.025
        latency = {"name": name, "effort": "rapid", "batch": 1, "n": 80, "median_ms": middle, "samples_ms": samples}
    return Row(name=name, role=role, format="onnx", precision="int8", status=status, latency=latency)


def test_the_margin_is_that_of_the_fastest_that_may_ship_to_the_next():
    rows = [
        row("teacher", 0.1, role="teacher"),
        row("a", 2.0),
        row("wrong", 0.2, status="failed"),
        row("b", 1.0),
        row("c"),
    ]
    found = margin(rows)
    assert (found["first"], found["second"], found["n"]) == ("b", "a", 80)
    assert found["median"] == pytest.approx(2.0) and found["verdict"] == "slower"  # the next one is
    assert sentences({"rows": [r.to_json() for r in rows], "margin": found})[-1].startswith("b is 2.0 times faster")


def test_a_tie_is_called_one():
    found = margin([row("a", 1.0), row("b", 1.001)])
    assert found["verdict"] == "no difference shown"
    assert "choose by size" in sentences({"rows": [row("a", 1.0).to_json()], "margin": found})[-1]


def test_one_alone_leads_nobody():
    assert margin([row("a", 1.0), row("b")]) is None


@pytest.mark.parametrize(("targets", "count"), [(["x86-vnni"], 1), (["auto"], 0)])
def test_what_nobody_named_may_fail(targets, count):
    rows = [row("a", 1.0), row("b", 2.0), row("c", 3.0, status="failed")]
    document = {
        "rows": [r.to_json() for r in rows],
        "gates": [],
        "margin": margin(rows),
        "recipe": {"export": {"targets": targets}},
    }
    assert len(failures(document)) == count
