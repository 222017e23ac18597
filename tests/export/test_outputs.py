"""Networks with several outputs: every writer keeps their names, and every runner goes by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from export_nets import pixels

from kdcompress.artifact import Output
from kdcompress.errors import UsageError
from kdcompress.export.formats import availability, build, open_runner, target, targets
from kdcompress.export.run_torch import TorchRunner
from kdcompress.export.sensitivity import ranking
from kdcompress.runner import infer_all

ALLOWED = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}  # of an output's largest number
UNNAMED = ("executorch", "ncnn")  # formats that number what they give in the order of the module


def expected(job):
    spec = job.parent.input
    with TorchRunner(job.module, spec) as runner:
        return infer_all(runner, pixels(spec, 5, seed=1), spec)


SLOW = [name for name in targets() if target(name).format in ("executorch", "coreml")]  # to write
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in targets()]


def test_the_outputs_of_one_shape_differ(heads):
    """Else nothing is tested below."""
    scores, _, areas = expected(heads)
    assert np.abs(scores - areas).max() > 0.3 * np.abs(areas).max()


@pytest.mark.parametrize("name", ["the parent", *EACH])
def test_each_output_is_that_of_its_name(heads, name):
    artifact = heads.parent
    if name in targets():
        builds, runs, why, _ = availability(target(name))
        artifact = build(heads, target(name)) if builds else artifact
        if not builds or not runs:
            pytest.skip(why)
    spec = artifact.input
    images = pixels(spec, 5, seed=1)
    with open_runner(artifact) as runner:
        found = infer_all(runner, images, spec)
    for output, got, wanted in zip(spec.outputs, found, expected(heads), strict=True):
        assert got.dtype == np.float32 and got.shape == (5, *output.shape)
        assert np.abs(got - wanted).max() < ALLOWED[artifact.precision] * np.abs(wanted).max(), output.name
    if artifact.format not in UNNAMED:
        turned = replace(spec, outputs=spec.outputs[::-1])
        with open_runner(replace(artifact, input=turned)) as runner:
            for got, other in zip(infer_all(runner, images, turned), found[::-1], strict=True):
                np.testing.assert_array_equal(got, other)
    more = replace(spec, outputs=(*spec.outputs, Output("masks", (3,), "of none")))
    with pytest.raises(UsageError, match="no output of this name") as caught:
        open_runner(replace(artifact, input=more)).__enter__()
    assert "masks" in str(caught.value)


def test_a_layer_of_any_output_can_be_the_one_that_loses_most(heads):
    found = dict(ranking(heads, target("x86-vnni").options.scheme))
    assert set(found) == {"normalised.net", "box", "score", "area"} and max(found.values()) > 0
