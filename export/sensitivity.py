"""Which layers lose most by being quantised: each is left in float once, and the error of the outputs is looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from kdcompress.artifact import InputSpec
from kdcompress.export import graph
from kdcompress.export.formats import ExportJob, Scheme
from kdcompress.export.mixed import layer_names
from kdcompress.export.quantize import write_int8
from kdcompress.export.run_onnxruntime import open_session
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
    """(name of the layer in the parent's ONNX, share of the int8 model's squared error that goes when it alone is left
    in float), largest first, of every convolution and matrix product, over some of the calibration images. Those of one
    module are one layer. Each output counts the same, whatever its unit. Biases are not corrected, which takes longer
    than all the rest."""
    spec, scheme = job.parent.input, scheme.model_copy(update={"bias_correction": False})
    batches = list(islice(job.batches(scheme), BATCHES))

    def outputs(path: Path) -> tuple[np.ndarray, ...]:
        session, wanted = open_session(path), [output.name for output in spec.outputs]
        return joined([tuple(session.run(wanted, {spec.name: batch})) for batch in batches])

    parent = graph.load(job.parent.path)
    names, expected = layer_names(parent, scheme), outputs(job.parent.path)
    with tempfile.TemporaryDirectory() as folder:
        path, ranges = Path(folder, "quantised.onnx"), Path(folder, "ranges.json")

        def error(*floating: str) -> float:
            kept = scheme.model_copy(update={"exclude": (*scheme.exclude, *floating)})
            write_int8(job, kept, path, ranges)
            return output_error(spec, expected, outputs(path))

        whole = error()
        found = {}
        for done, name in enumerate(names, 1):
            found[name] = 1 - error(name) / whole if whole else 0.0
            progress(done, len(names))
    return sorted(found.items(), key=lambda item: -item[1])
