"""Engines of TensorRT and TensorRT-RTX layer by layer: what the engine inspector says of each layer, and the times that
the profiler reports. TensorRT 10.12 to 11 and TensorRT-RTX have the same Python interface here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export import graph
from kdcompress.export.node_macs import macs
from kdcompress.export.tensorrt_engine import MOVES, type_of
from kdcompress.export.tensorrt_runner import EngineRunner
from kdcompress.export.turns import in_turns
from kdcompress.layers import Layer, Profile

ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")  # in Metadata, one for each node that went into the layer
VALUES = "TensorRT keeps no values between the layers of an engine: errors are not told."
NAMES_ONLY = "The engine was not built with detailed verbosity: precisions and shapes are not told."
IN_A_ROW = "The profiler waits for each layer: their sum holds no overlap, and is more than the whole."


def read_engine(
    runner: type[EngineRunner], artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None
) -> Profile:
    """Each query runs with the profiler and without it, in turns, on two contexts of one file.

    Raises RuntimeMissingError where there is no GPU, UsageError where the engine is another GPU's or damaged.
    """
    trt = runner.library()
    with runner(artifact, threads) as plain, runner(artifact, threads) as profiled:
        recorder = recorder_of(trt)
        profiled.report_to(recorder)

        def run(query: np.ndarray) -> list[tuple[str, float]]:
            recorder.reported.clear()
            profiled.infer(query)
            return list(recorder.reported)

        (whole, _), (_, reported) = in_turns([plain.infer, run], queries)
        said = profiled.information(len(queries[0]))
        version = str(plain.details()["version"])
    counted: dict[str, int] = {}
    nodes = None
    if parent is not None:
        model = graph.load_named(parent.path)
        nodes = {node.name for node in model.graph.node}
        counted = macs(model, parent.input.name, queries[0])
    layers = layers_of(said, reported, counted, nodes)
    notes = [VALUES, IN_A_ROW]
    notes += [NAMES_ONLY] * any(not isinstance(layer, dict) for layer in said.get("Layers", []))
    return Profile(runner.name, version, threads, layers, whole, tuple(notes))


def recorder_of(trt: ModuleType) -> Any:
    """An IProfiler that keeps (layer, milliseconds) in ``reported``, in the order of the reports."""

    class Recorder(trt.IProfiler):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.reported: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.reported.append((layer_name, ms))

    return Recorder()


def layers_of(
    said: Mapping[str, Any],
    reported: Sequence[Sequence[tuple[str, float]]],
    counted: Mapping[str, int],
    nodes: Collection[str] | None = None,
) -> tuple[Layer, ...]:
    """The layers that the inspector tells of, in its order, and then those that only the profiler reports; an engine
    that was built with names only has a list of them. ``reported``: of each query; one that ran in parts reports a
    layer more than once. ``counted``: multiply-accumulates of nodes of the parent, and ``nodes``: all of its nodes,
    where it is known.
    """
    times = [_summed(query) for query in reported]
    known = [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in said.get("Layers", [])]
    named = {str(layer.get("Name")) for layer in known}
    known += [{"Name": name} for name in dict.fromkeys(name for query in times for name in query) if name not in named]
    return tuple(
        _layer(layer, np.array([query.get(str(layer.get("Name")), 0.0) for query in times]), counted, nodes)
        for layer in known
    )


def _summed(reported: Sequence[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, ms in reported:
        found[name] = found.get(name, 0.0) + ms
    return found


def _layer(
    said: Mapping[str, Any], times: np.ndarray, counted: Mapping[str, int], nodes: Collection[str] | None
) -> Layer:
    name, kind = str(said.get("Name")), str(said.get("LayerType", "layer"))
    parts = _parts(said, nodes)
    multiplied = [counted[part] for part in parts if part in counted]
    outputs = [output for output in said.get("Outputs") or [] if isinstance(output, dict)]
    shape = next((output["Dimensions"] for output in outputs if output.get("Dimensions")), ())
    return Layer(
        name=name,
        kind=kind,
        times=times,
        precision="" if kind in MOVES else type_of(said) or "",
        shape=tuple(map(int, shape)),
        macs=sum(multiplied) if multiplied else None,
        made_of=parts,
    )


def _parts(said: Mapping[str, Any], nodes: Collection[str] | None) -> tuple[str, ...]:
    """The nodes of the parent by the layer's metadata, or by its name, which joins those of nodes; a copy has the name
    of the layer that it is for. Of casts and of what quantises, which the parent has not, there are none."""
    noted = ONNX_NODE.findall(str(said.get("Metadata") or ""))
    if nodes is None:
        return tuple(dict.fromkeys(noted))
    copies = said.get("LayerType") in MOVES
    named = noted or ([] if copies else str(said.get("Name")).split(" + "))
    return tuple(dict.fromkeys(name for name in named if name in nodes))
