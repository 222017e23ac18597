"""What `make reference` prints and notes."""

from __future__ import annotations

import copy

import pytest
import renew
from reference_files import PARENT, read

from kdcompress.export.formats import target


def test_what_changed_is_told_with_the_versions():
    old = read("residual")["files"]
    new = copy.deepcopy(old)
    new["x86-vnni"]["error"] = 0.04
    new["x86-vnni"]["versions"]["onnxruntime"] = "9.9"
    del old["mnn-fp32"]
    before, version = (old["x86-vnni"][key] for key in ("error", "versions"))
    rows = list(renew.changes("residual", old, new))
    assert ["residual", "mnn-fp32", "record", "none", "new", ""] in rows
    said = f"since the record: onnxruntime {version['onnxruntime']} -> 9.9"
    assert ["residual", "x86-vnni", "error", str(before), "0.04", said] in rows and len(rows) == 2
    assert list(renew.changes("residual", new, new)) == []
    assert [len(line) for line in renew.aligned([["a", "bc", "d"], ["efg", "h", "i"]]).splitlines()] == [10, 10]


@pytest.mark.slow
def test_speed_is_beside_the_parent_s(reference_of, latencies):
    """Each file takes as long as it is large."""
    its = reference_of("residual")
    latencies(lambda artifact: artifact.bytes / 1e5)
    files = {PARENT: its.parent, "x86-vnni": its.built(target("x86-vnni"))}
    found = renew.ratios(its, files)
    assert found == {"x86-vnni": pytest.approx(files["x86-vnni"].bytes / its.parent.bytes, rel=0.05)}
