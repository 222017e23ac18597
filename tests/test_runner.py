"""Outputs of several batches are put together, and those of a file are found by their names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcompress.artifact import Artifact, InputSpec, Output
from kdcompress.errors import UsageError
from kdcompress.runner import by_name, infer_all, joined

OUTPUTS = (Output("sums", (1,), "of an image"), Output("planes", (4, 4), "the first"))
SPEC = InputSpec(4, 4, 1, (0.5,), (0.5,), ("a", "b"), outputs=OUTPUTS)
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), dtype=np.uint8)


class Sums:
    """Gives what can be told from the images themselves; keeps how many it was given a call."""

    def __init__(self):
        self.batches = []

    def infer(self, x):
        self.batches.append(len(x))
        return x.sum((1, 2), dtype=np.float32), x[..., 0].astype(np.float32)


@pytest.mark.parametrize(("batch", "calls"), [(None, [5, 2]), (3, [3, 3, 3]), (1, [1] * 7), (7, [7])])
def test_every_output_has_a_row_for_every_image(batch, calls):
    runner = Sums()
    sums, planes = infer_all(runner, IMAGES, replace(SPEC, batch=batch), batch_size=5)
    assert runner.batches == calls
    np.testing.assert_array_equal(sums[:, 0], IMAGES.sum((1, 2, 3)))
    np.testing.assert_array_equal(planes, IMAGES[..., 0])


def test_calls_that_give_another_number_of_outputs_are_not_put_together():
    one = np.zeros((2, 3))
    with pytest.raises(ValueError, match="zip"):
        joined([(one, one), (one,)])


def test_what_a_file_has_is_found_by_name():
    artifact = Artifact(Path("a.onnx"), "onnx", "fp32", SPEC, "0" * 64, 0)
    assert by_name(artifact, {"planes": 0, "more": 1, "sums": 2}) == [2, 0]
    with pytest.raises(UsageError, match="no output of this name") as caught:
        by_name(artifact, {"planes": 0, "Identity": 1})
    said = str(caught.value)
    assert "got: sums" in said and "planes, Identity" in said and "a.onnx" in said
