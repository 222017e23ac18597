"""Which layers lose most by being quantised: each is in int8 alone once, and the error of the outputs is looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import InputSpec
from kdcompress.export import graph
from kdcompress.export.alone import Alone
from kdcompress.export.formats import ExportJob, Scheme
from kdcompress.export.mixed import layer_names
from kdcompress.export.quantize import as_quantised, prepare, write_int8
from kdcompress.export.run_onnxruntime import open_session_of
from kdcompress.parity import of_sets
from kdcompress.runner import joined
from kdcompress.task import Outputs

BATCHES = 4


def output_error(spec: InputSpec, expected: Outputs, got: Outputs) -> float:
    """The squared error of a file's outputs [N, ...] as a share of what its parent's, ``expected``, have: each output
    counts the same, whatever its unit. Their sum."""
    apart = of_sets(expected, got) if spec.chosen else [a - b for a, b in zip(got, expected, strict=True)]
    sizes = [float(np.square(output).mean()) or 1.0 for output in expected]
    errors = [float(np.square(each).mean()) for each in apart]
    return sum(lost / size for lost, size in zip(errors, sizes, strict=True))


def ranking(
    job: ExportJob, scheme: Scheme, progress: Callable[[int, int], None] = lambda done, all: None
) -> list[tuple[str, float]]:
    """(name of the layer in the parent's ONNX, squared error of the outputs where it alone is in int8, as a share of
    all such errors), largest first, of every convolution and matrix product, over some of the calibration images. Those
    of one module are one layer. Each output counts the same, whatever its unit. A layer that the int8 file leaves in
    float, or that cannot be told in it, has none. Biases are not corrected, which takes longer than all the rest."""
    spec, scheme = job.parent.input, scheme.model_copy(update={"bias_correction": False})
    batches, wanted = list(islice(job.batches(scheme), BATCHES)), [output.name for output in spec.outputs]

    def outputs(model: Any) -> tuple[np.ndarray, ...]:
        session = open_session_of(model, wanted)
        return joined([tuple(session.run(wanted, {spec.name: batch})) for batch in batches])

    names = layer_names(graph.load(job.parent.path), scheme)
    with tempfile.TemporaryDirectory() as folder:
        path, prepared = Path(folder, "quantised.onnx"), Path(folder, "prepared.onnx")
        write_int8(job, scheme, path, job.ranges)
        prepare(as_quantised(job, scheme), prepared)
        parent = graph.load(prepared)
        alone = Alone(parent, graph.load(path))
    expected, found = outputs(parent), {}
    for done, name in enumerate(names, 1):
        layers = [each for each in alone.layers if each == name or each.startswith(f"{name}.")]
        found[name] = output_error(spec, expected, outputs(alone.of(layers))) if layers else 0.0
        progress(done, len(names))
    whole = sum(found.values()) or 1.0
    return sorted(((name, error / whole) for name, error in found.items()), key=lambda item: -item[1])
