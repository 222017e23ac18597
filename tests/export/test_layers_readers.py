"""Every runtime that says what its layers take: the same promises of each."""

from __future__ import annotations

import numpy as np
import pytest
from export_nets import problem
from test_layers_onnxruntime import BY_HAND

from kdcompress.bench.layers import summary
from kdcompress.export import graph
from kdcompress.export.formats import availability, build, target, targets
from kdcompress.export.layers import readers
from kdcompress.export.runtimes import runners

N = 16


def of(reader):
    """The first target of each precision whose files this reader reads."""
    found = {}
    for name in targets():
        if target(name).runtime == reader:
            found.setdefault(target(name).precision, name)
    return found.values()


SLOW = ("executorch", "litert")  # to write: each reader's own tests have one precision of theirs
CASES = [
    pytest.param(reader, name, id=f"{reader}-{name}", marks=[pytest.mark.slow] * (reader in SLOW))
    for reader in readers
    for name in of(reader)
]


def test_readers_are_named_as_runtimes():
    assert "onnxruntime-cpu" in readers and set(readers) <= set(runners)
    assert {case.values[0] for case in CASES} == set(readers), "a reader whose files no target makes"


@pytest.mark.parametrize(("reader", "name"), CASES)
def test_a_reader_keeps_its_promises(reader, name, job, trained):
    can_build, can_run, why, _ = availability(target(name))
    if not (can_build and can_run):
        pytest.skip(why)
    artifact = build(job, target(name))
    spec, images = artifact.input, problem(N, seed=3)[0]
    queries = [spec.prepare(np.repeat(image[None], spec.batch or 1, axis=0)) for image in images]
    found = readers[reader](artifact, queries, 1, trained.artifact)
    assert found.runtime == reader and found.version and found.whole.shape == (N,) and (found.whole > 0).all()
    names = [layer.name for layer in found.layers]
    assert names and len(names) == len(set(names))
    for layer in found.layers:
        assert layer.kind and layer.times.shape == (N,) and np.isfinite(layer.times).all(), layer
        assert (layer.times >= 0).all() and layer.precision in ("", "fp32", "fp16", "bf16", "int8"), layer
        assert "conv" not in layer.kind.lower() or layer.shape, layer
    assert 0.02 < np.median(sum(layer.times for layer in found.layers)) / np.median(found.whole) < 50
    nodes = {node.name for node in graph.load(trained.artifact.path).graph.node}
    assert {part for layer in found.layers for part in layer.made_of} <= nodes
    counted = [layer.macs for layer in found.layers if layer.macs]
    assert not counted or sum(counted) == sum(BY_HAND.values())
    told = summary(found, {"fp32": 1.0, "int8": 1.0}, set(BY_HAND))
    assert sum(row["share"] for row in told["layers"]) == pytest.approx(1)
