"""ncnn models layer by layer: one extractor is asked for the blob of each layer in turn, and computes what it has not
yet computed, which is that layer."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError
from kdcompress.export import graph
from kdcompress.export.layers import readers
from kdcompress.export.ncnn_layers import INT8_SCALES, Entry, Shape, entries, matched
from kdcompress.export.run_ncnn import NcnnRunner, check
from kdcompress.export.turns import in_turns, unlike
from kdcompress.export.value_errors import value_errors
from kdcompress.layers import Layer, Profile

MOVES = ("Split", "MemoryData", "Reshape", "Permute", "Slice", "Crop", "Concat", "Flatten", "Squeeze", "ExpandDims")
AS_IT_IS = 1  # of Extractor.extract: the blob in ncnn's own layout and type, without a copy
BYTES = {4: "fp32", 2: "fp16"}  # of a value
TIMED = (
    "ncnn's Python package has no profiler: each layer's blob is asked for in turn, and the time of the call is told. "
    "About {us:.1f} microseconds of each are the call itself, as one for a blob that is there already takes."
)
PAIRED = "Nodes of the parent were found by the order and the sizes of their weights: ncnn's file keeps no names."
ONE_BY_ONE = "The images of a query run one by one: times and multiply-accumulates are of all of them."


@readers.register("ncnn")
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    """Each query runs layer by layer, and as it is benchmarked, in turns.

    Raises UsageError where the model cannot be loaded, KDCompressError where it cannot be run.
    """
    check()
    layers = [layer for layer in entries(artifact.path) if layer.kind != "Input" and layer.outputs]
    with NcnnRunner(artifact, threads) as runner:
        walk = Walk(runner, layers)
        (whole, _), (_, rows) = in_turns([runner.infer, walk.profiled], queries)
        own = walk.call_ms(queries[0])
        shapes, precisions = walk.shapes(queries[0]), walk.precisions(queries[0])
        was = None if parent is None else matched(layers, model := graph.load_named(parent.path))
        errors: dict[int, float] = {}
        if parent is not None and was is not None:
            tensors = {i: each.tensor for i, each in enumerate(was) if each.tensor}
            errors = value_errors(model, parent, tensors, queries, walk.values)
    times, images = np.array(rows).T, len(queries[0])
    found = []
    for i, (name, layer) in enumerate(zip(unlike(layer.name for layer in layers), layers, strict=True)):
        macs = layer.macs([shapes.get(blob, ()) for blob in layer.inputs], shapes[layer.outputs[0]])
        found.append(
            Layer(
                name=name,
                kind=f"{layer.kind}+{layer.activation}" if layer.activation else layer.kind,
                times=times[i],
                precision=_precision(layer, precisions[i]),
                shape=(images, *shapes[layer.outputs[0]]),
                macs=None if macs is None else macs * images,
                made_of=was[i].nodes if was else (),
                snr_db=errors.get(i),
            )
        )
    notes = [TIMED.format(us=own * 1e3)] + [ONE_BY_ONE] * (images > 1) + [PAIRED] * (parent is not None)
    return Profile("ncnn", runner.details()["version"], threads, tuple(found), whole, tuple(notes))


def _precision(layer: Entry, stored: str) -> str:
    """Of the arithmetic, by the type that ncnn gives the layer's blob: it computes in fp16 where it stores it."""
    if layer.kind in MOVES:
        return ""
    return "int8" if layer.number(INT8_SCALES) and layer.weights and layer.kind != "Gemm" else stored


class Walk:
    """Through the layers of a model that a runner has loaded. A layer's first blob stands for it."""

    def __init__(self, runner: NcnnRunner, layers: Sequence[Entry]):
        self._runner, self._blobs = runner, [layer.outputs[0] for layer in layers]
        self._all = [blob for layer in layers for blob in layer.outputs]

    def profiled(self, x: np.ndarray) -> np.ndarray:
        """Milliseconds of each layer, float [layers]; of several images their sums."""
        return np.sum([self._times(image) for image in x], axis=0)

    def _times(self, image: np.ndarray) -> list[float]:
        extractor, times = self._runner.extractor(image), []
        for blob in self._blobs:
            start = perf_counter_ns()
            found = extractor.extract(blob, AS_IT_IS)
            times.append((perf_counter_ns() - start) / 1e6)
            self._held(found, blob)
            del found  # a blob that is held is not written over by the next layer, but copied
        return times

    def call_ms(self, x: np.ndarray) -> float:
        """The median of calls for a blob that is computed already."""
        extractor, times = self._runner.extractor(x[0]), []
        for _ in range(101):
            start = perf_counter_ns()
            extractor.extract(self._blobs[-1], AS_IT_IS)
            times.append((perf_counter_ns() - start) / 1e6)
        return float(np.median(times[1:]))

    def precisions(self, x: np.ndarray) -> list[str]:
        bf16 = self._runner.details()["options"].get("use_bf16_storage")
        names = {**BYTES, 2: "bf16"} if bf16 else BYTES
        extractor = self._runner.extractor(x[0])
        kept = [self._held(extractor.extract(blob, AS_IT_IS), blob) for blob in self._blobs]
        return [names.get(blob.elemsize // blob.elempack, "") for blob in kept]

    def shapes(self, x: np.ndarray) -> dict[str, Shape]:
        """Of all blobs, for one image."""
        extractor = self._runner.extractor(x[0])
        given = {"in0": self._held(extractor.extract("in0"), "in0")}
        given |= {blob: self._held(extractor.extract(blob), blob) for blob in self._all}
        return {name: tuple(blob.numpy().shape) for name, blob in given.items()}

    def values(self, x: np.ndarray) -> dict[int, np.ndarray]:
        """What each layer gives, float32, by its place, images stacked."""
        found: list[list[np.ndarray]] = [[] for _ in self._blobs]
        for image in x:
            extractor = self._runner.extractor(image)
            for place, blob in enumerate(self._blobs):
                found[place].append(np.array(self._held(extractor.extract(blob), blob).numpy(), np.float32))
        return {place: np.stack(parts) for place, parts in enumerate(found)}

    def _held(self, found: tuple[int, Any], blob: str) -> Any:
        failed, values = found
        if failed:
            raise KDCompressError(
                "ncnn cannot run this layer.", where=self._runner.artifact.path, got=f"blob {blob}: status {failed}"
            )
        return values
