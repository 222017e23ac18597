"""ONNX files layer by layer, by ONNX Runtime's own profiler, on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.errors import KDCompressError
from kdcompress.export import graph
from kdcompress.export.layers import readers
from kdcompress.export.made_of import made_of
from kdcompress.export.node_errors import snr_db
from kdcompress.export.node_macs import macs
from kdcompress.export.quantize import INT8
from kdcompress.export.run_onnxruntime import check, open_session, session_options
from kdcompress.export.turns import WARM_UP, Run, in_turns
from kdcompress.layers import Layer, Profile

IMAGES = 16  # that the errors are of
KERNEL, RUN = "_kernel_time", "model_run"  # names of the profiler's events
RUNTIME = "onnxruntime-cpu"
MOVES = (
    "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Pad", "Gather", "Expand",
    "Identity", "Shape", "ReorderInput", "ReorderOutput", "SpaceToDepth", "DepthToSpace",
)  # fmt: skip
HALF_MS = 0.0005  # a time is cut to whole microseconds: half of one is what that loses on average
NESTED = "Operators inside If, Loop or Scan are not told apart: their time is that of the operator around them."
OWN = (
    "The file's fp32 parent was not given: layers are named after the file's own nodes, and their errors are not told."
)


@dataclass
class Kernel:
    """An operator of the graph as it runs. ``ms``: of each query."""

    name: str
    kind: str
    inputs: list[dict[str, list[int]]]  # type -> shape, each
    outputs: list[dict[str, list[int]]]
    ms: list[float] = field(default_factory=list)


@readers.register(RUNTIME)
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    """Each query runs with the profiler and without it, in turns.

    Raises UsageError where the file cannot be loaded, KDCompressError where the profiler lost queries.
    """
    check()
    import onnx
    import onnxruntime

    spec = artifact.input
    file = graph.load_named(artifact.path) if artifact.format == "onnx" else None
    with tempfile.TemporaryDirectory() as folder:
        whole, lines = _turns(artifact, queries, threads, Path(folder))
        kernels, nested = _kernels(lines, len(queries))
        optimised = onnx.load(Path(folder, "optimised.onnx"), load_external_data=False)
    file = file or optimised  # an .ort file is the graph as it was optimised
    above = graph.load_named(parent.path) if parent is not None else file
    images = _images(spec, queries)
    over = parent.input if parent is not None else spec
    parts = made_of(optimised, file, above)
    at = _places(optimised, kernels)
    counted = macs(above, over.name, over.prepare(_whole_batches(images, over)[: over.batch or spec.batch or 1]))
    errors: dict[str, float] = {}
    if parent is not None and parent.sha256 != artifact.sha256:
        errors = snr_db(file, spec, above, parent, images)
    nodes = [optimised.graph.node[i] if i is not None else None for i in at]
    made = [parts[i] if i is not None else () for i in at]
    layers = [_layer(*each, counted, errors) for each in zip(kernels, nodes, made, strict=True)]
    notes = [OWN] * (parent is None) + [NESTED] * nested
    return Profile(RUNTIME, onnxruntime.__version__, threads, tuple(layers), whole, tuple(notes))


def _layer(
    found: tuple[tuple[str, str, int], Kernel],
    node: Any,
    parts: tuple[str, ...],
    counted: dict[str, int],
    errors: dict[str, float],
) -> Layer:
    (name, _, again), kernel = found
    multiplied = [counted[part] for part in parts if part in counted]
    return Layer(
        name=f"{name}.{again + 1}" if again else name,
        kind=_kind(kernel.kind, node),
        times=np.array(kernel.ms),
        precision=_precision(kernel),
        shape=tuple(next(iter(kernel.outputs[0].values()))) if kernel.outputs else (),
        macs=sum(multiplied) if multiplied else None,
        made_of=parts,
        snr_db=next((errors[part] for part in reversed(parts) if part in errors), None),
    )


def _turns(
    artifact: Artifact, queries: Sequence[np.ndarray], threads: int, folder: Path
) -> tuple[np.ndarray, Iterator[str]]:
    """Milliseconds of the plain session, and the lines of the profiler's file."""
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4  # it warns that the graph it saves is for this machine
    sessions = [open_session(artifact.path, threads), open_session(artifact.path, options=options)]

    def run_of(session: Any) -> Run:
        def run(query: np.ndarray) -> None:
            session.run(None, {artifact.input.name: query})

        return run

    (whole, _), _ = in_turns([run_of(session) for session in sessions], queries)
    path = Path(sessions[1].end_profiling())
    return whole, iter(path.read_text(errors="replace").splitlines())


def _kernels(lines: Iterable[str], queries: int) -> tuple[list[tuple[tuple[str, str, int], Kernel]], bool]:
    """The operators in the order in which they run, each with its key: name, kind and how often the two came before;
    and whether there were operators inside others, which are left out."""
    found: dict[tuple[str, str, int], Kernel] = {}
    events: list[dict[str, Any]] = []
    run, counted, nested = 0, 0, False
    for line in lines:
        if f'{KERNEL}"' in line:
            events.append(json.loads(line.strip().rstrip(",")))
        elif f'"{RUN}"' in line:
            if run >= WARM_UP and (run - WARM_UP) % 2:
                outer = list(_outer(events))
                nested = nested or len(outer) < len(events)
                _add(found, outer, counted)
                counted += 1
            run, events = run + 1, []
    if counted < queries:
        raise KDCompressError(
            "ONNX Runtime's profiler did not keep all queries.",
            got=f"{counted} of {queries}",
            hint="give fewer --queries",
        )
    return list(found.items()), nested


def _outer(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that do not run inside another."""
    end = -1
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= end:
            end = event["ts"] + event["dur"]
            yield event


def _add(found: dict[tuple[str, str, int], Kernel], events: list[dict[str, Any]], counted: int) -> None:
    again: Counter[tuple[str, str]] = Counter()
    for event in events:
        said = event["args"]
        of = event["name"].removesuffix(KERNEL), said["op_name"]
        key = (*of, again[of])
        again[of] += 1
        if key not in found:
            inputs, outputs = (said.get(f"{which}_type_shape") or [] for which in ("input", "output"))
            found[key] = Kernel(*of, inputs, outputs, [0.0] * counted)
        found[key].ms.append(event["dur"] / 1e3 + HALF_MS)
    for kernel in found.values():
        kernel.ms += [0.0] * (counted + 1 - len(kernel.ms))  # that did not run for this query


def _places(optimised: Any, kernels: list[tuple[tuple[str, str, int], Kernel]]) -> list[int | None]:
    """The place of each operator in the graph, by its name; of those that have none there, in their order."""
    again: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str, int], int] = {}
    nameless: dict[str, list[int]] = {}
    for i, node in enumerate(optimised.graph.node):
        if not node.name:
            nameless.setdefault(node.op_type, []).append(i)
            continue
        of = node.name, node.op_type
        places[(*of, again[of])] = i
        again[of] += 1
    found = []
    for key, kernel in kernels:
        left = nameless.get(kernel.kind, [])
        found.append(places[key] if key in places else left.pop(0) if left else None)
    return found


def _kind(kind: str, node: Any) -> str:
    """With the sum and the activation that were fused into it: Conv+Add+Relu; NchwcConv where it reads channels in
    blocks."""
    if node is None:
        return kind
    blocks = "Nchwc" if node.domain == "com.microsoft.nchwc" and not kind.startswith("Reorder") else ""
    summed = "+Add" if kind in ("Conv", "FusedConv", "NhwcFusedConv") and len(node.input) > 3 else ""
    activation = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "activation"), "")
    return blocks + kind + summed + (f"+{activation}" if activation else "")


def _precision(kernel: Kernel) -> str:
    """Of the arithmetic, where there is any: what multiplies integers is int8, also where it gives floats. Scales are
    floats in each."""
    if kernel.kind in MOVES:
        return ""
    if kernel.kind in INT8 or kernel.kind.startswith(("QLinear", "QGemm", "QAttention")):
        return "int8"
    types = {name for value in (*kernel.inputs, *kernel.outputs) for name in value}
    known = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}
    return next((known[name] for name in known if name in types), "")


def _images(spec: InputSpec, queries: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [N, H, W, C]: the first images of the queries as they were before ``InputSpec.prepare``."""
    kind, order = spec.layout.split("-")
    values = np.concatenate(list(queries[:IMAGES]))[: max(IMAGES, spec.batch or 1)]
    values = values if order == "nhwc" else values.transpose(0, 2, 3, 1)
    return values if kind == "uint8" else np.rint(values.astype(np.float32) * 255).astype(np.uint8)


def _whole_batches(images: np.ndarray, spec: InputSpec) -> np.ndarray:
    return np.concatenate([images, np.repeat(images[-1:], -len(images) % (spec.batch or 1), axis=0)])
