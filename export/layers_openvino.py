"""OpenVINO models layer by layer, by the CPU plugin's counters and its runtime graph."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export import graph
from kdcompress.export.layers import readers
from kdcompress.export.openvino_model import FAMILIES, FILES, TYPES, check, compile_model, library, options
from kdcompress.export.parts import parts
from kdcompress.export.run_openvino import OpenVinoRunner, shareable
from kdcompress.export.turns import in_turns
from kdcompress.export.value_errors import value_errors
from kdcompress.layers import Layer, Profile

RUNTIME = "openvino-cpu"
SETTLE, BLOCK = 3, 12  # queries of a model that was just compiled: that are not told of, and that are
HALF_US = 0.5  # a run's time is cut to whole microseconds: half of one is what that loses on average
NO_LAYERS = ("Const", "Input", "Output")
MOVES = (
    "Reorder", "Reshape", "Transpose", "Convert", "Concatenation", "Split", "Pad", "StridedSlice", "Gather", "Tile",
    "Broadcast", "ShapeOf", "SpaceToDepth", "DepthToSpace", "ShuffleChannels",
)  # fmt: skip
MULTIPLY = tuple(kind for kinds in FAMILIES.values() for kind in kinds)
ADDED = re.compile(
    r"(/WithoutBiases|/DequantizationMultiply|/fq_\w+|_original)+$"
)  # to the names of the parent's nodes
AVERAGES = (
    "OpenVINO tells the average of all runs since the model was compiled, in whole microseconds. It is compiled again "
    f"after every {BLOCK} queries, and a query's time is worked out from two averages: it is right to some "
    "microseconds, a median of many to about one."
)
VALUES = (
    "Errors are of a copy of the model that gives the values between its layers: less is fused in it, and what is "
    "rounded is rounded."
)
OWN = "The file's fp32 parent was not given: errors are not told, nor which of its nodes a layer was made of."


@readers.register(RUNTIME)
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    """Each query runs with counters and without them, in turns. Raises UsageError where the file cannot be loaded."""
    check()
    counted = Counted(artifact, threads)
    with OpenVinoRunner(artifact, threads) as runner:
        (whole, _), (_, places) = in_turns([runner.infer, counted.run], queries)
    nodes = counted.nodes()
    made: list[tuple[str, ...]] = [()] * len(nodes)
    errors: dict[int, float] = {}
    if parent is not None:
        model = graph.load_named(parent.path)
        tensors = _tensors(model, nodes)
        made = parts(model, tensors)
        errors = _errors(artifact, threads, model, parent, tensors, queries)
    layers = tuple(
        Layer(
            name=node.get_friendly_name(),
            kind=f"{_said(node, 'layerType')} ({_said(node, 'primitiveType')})",
            times=counted.times(node.get_friendly_name(), places),
            precision=_precision(node),
            shape=_shape(node.output(0)),
            macs=_macs(node),
            made_of=made[i],
            snr_db=errors.get(i),
        )
        for i, node in enumerate(nodes)
    )
    notes = (AVERAGES, *([OWN] if parent is None else [VALUES] if errors else []))
    return Profile(RUNTIME, library().__version__, threads, layers, whole, notes)


class Counted:
    """A model that is compiled with counters, again and again."""

    def __init__(self, artifact: Artifact, threads: int):
        self._artifact, self._threads = artifact, threads
        self._compiled: Any = None
        self._request: Any = None
        self._names: list[str] = []  # of the nodes; some have another name each time the model is compiled
        self._averages: list[list[list[float]]] = []  # of each block, after each run: microseconds of each node

    def run(self, x: np.ndarray) -> tuple[int, int]:
        """The place of this run: its block, and how many were before it there."""
        if not self._averages or len(self._averages[-1]) == SETTLE + BLOCK:
            self._compiled = compile_model(self._artifact.path, self._threads, PERF_COUNT=True)
            self._request = self._compiled.create_infer_request()
            self._averages.append([])
            for _ in range(SETTLE):
                self._infer(x)
        self._infer(x)
        return len(self._averages) - 1, len(self._averages[-1]) - 1

    def _infer(self, x: np.ndarray) -> None:
        self._request.set_input_tensor(library().Tensor(shareable(x), shared_memory=True))
        self._request.infer()
        us = timedelta(microseconds=1)
        told = self._request.profiling_info
        self._names = [each.node_name for each in told]
        self._averages[-1].append([each.real_time / us for each in told])

    def nodes(self) -> list[Any]:
        """Those of the runtime graph that took time, in the order in which they run."""
        rows = np.array([run for block in self._averages for run in block])
        ran = {name for name, spent in zip(self._names, rows.T, strict=True) if spent.any()}
        ops = sorted(self._compiled.get_runtime_model().get_ops(), key=lambda node: int(_said(node, "execOrder")))
        return [op for op in ops if op.get_friendly_name() in ran and _said(op, "layerType") not in NO_LAYERS]

    def times(self, name: str, places: Sequence[tuple[int, int]]) -> np.ndarray:
        """Milliseconds of a node in the runs at these places."""
        at = self._names.index(name)
        spent = [durations([run[at] for run in block]) for block in self._averages]
        return np.array([(spent[block][run] + HALF_US) / 1e3 for block, run in places])


def durations(averages: Sequence[float]) -> np.ndarray:
    """What each of some runs took, from the averages of the first one, the first two and so on, cut to whole numbers:
    the sum of so many runs is between bounds, and it never falls."""
    runs = np.arange(1, len(averages) + 1)
    low = np.maximum.accumulate(np.array(averages) * runs)
    high = np.minimum.accumulate((np.array(averages) * runs + runs - 1)[::-1])[::-1]
    return np.diff((low + high) / 2, prepend=0.0)


def _said(node: Any, key: str) -> str:
    return str(node.get_rt_info()[key].astype(str))


def _shape(value: Any) -> tuple[int, ...]:
    shape = value.get_partial_shape()
    return tuple(shape.to_shape()) if shape.is_static else ()


def _precision(node: Any) -> str:
    """Of the arithmetic, as the kernel is called; what makes floats of integers does so in floats. Not
    runtimePrecision: that is fp16 for a layer that computes in fp32 with weights stored in fp16."""
    if _said(node, "layerType") in MOVES:
        return ""
    kernel = TYPES.get(_said(node, "primitiveType").rpartition("_")[2].lower(), "")
    output = TYPES.get(_said(node, "outputPrecisions").split(",")[0], "")
    return output if kernel == "int8" and output and _said(node, "layerType") not in MULTIPLY else kernel


def _macs(node: Any) -> int | None:
    kind = _said(node, "layerType")
    if kind not in MULTIPLY or node.get_input_size() < 2:
        return None
    source, weight = (_shape(value.get_source_output()) for value in node.inputs()[:2])
    output = _shape(node.output(0))
    if not source or not weight or not output:
        return None
    if kind in ("FullyConnected", "MatMul"):
        return math.prod(output) * source[-1]
    each = math.prod(weight[1 + (len(weight) > len(output)) :])  # weights of groups have a dimension more
    return math.prod(source if kind == "Deconvolution" else output) * each


def _tensors(model: Any, nodes: Sequence[Any]) -> list[str]:
    """The tensor of the parent that each node gives: that of the last of the parent's nodes that it was made of."""
    order = {name: i for i, node in enumerate(model.graph.node) for name in (*node.output, node.name) if name}
    found = []
    for node in nodes:
        names = _said(node, "originalLayersNames").split(",")
        known = [order[name] for each in names for name in (each, ADDED.sub("", each)) if name in order]
        found.append(model.graph.node[max(known)].output[0] if known else "")
    return found


def _errors(
    artifact: Artifact,
    threads: int,
    model: Any,
    parent: Artifact,
    tensors: Sequence[str],
    queries: Sequence[np.ndarray],
) -> dict[int, float]:
    core = library().Core()
    copy = core.read_model(artifact.path / FILES[0])
    made = {name: value for node in copy.get_ops() for value in node.outputs() for name in value.get_names()}
    made |= {node.get_friendly_name(): node.output(0) for node in copy.get_ops() if node.get_output_size()} | made
    wanted = {i: tensor for i, tensor in enumerate(tensors) if tensor in made}
    given_anyway = {name for value in copy.outputs for name in value.get_names()}
    names = {tensor: f"kdcompress.{tensor}" for tensor in wanted.values() if tensor not in given_anyway}
    for tensor, name in names.items():  # each once, although several layers may give it
        value = _rounded(made[tensor])
        value.get_tensor().add_names({name})
        copy.add_outputs([value])
    compiled = core.compile_model(copy, "CPU", options(threads))

    def values(query: np.ndarray) -> Mapping[int, np.ndarray]:
        given = compiled([shareable(query)])
        return {i: given[names.get(tensor, tensor)] for i, tensor in wanted.items()}

    return value_errors(model, parent, wanted, queries, values)


def _rounded(value: Any) -> Any:
    """What is read of a value: it as it is quantised, where it is."""
    readers_of = [each.get_node() for each in value.get_target_inputs()]
    return next((node.output(0) for node in readers_of if node.get_type_name() == "FakeQuantize"), value)
