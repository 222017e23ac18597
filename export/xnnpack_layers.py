"""What XNNPACK's profiler tells of operators, and which of the file's and of the ONNX parent's each of them is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export import graph
from kdcompress.export.node_macs import macs
from kdcompress.export.parts import parts
from kdcompress.layers import Layer

HALF_MS = 0.0005  # a time is cut to whole microseconds: half of one is what that loses on average
CUT = "XNNPACK tells times in whole microseconds: layers of less than one are all told as half of one."
OWN = "The file's fp32 parent was not given: errors are not told, nor which of its nodes a layer was made of."
UNKNOWN = "The convolutions and matrix products of the file are not those of the parent in its order: {}."
OTHERS = (
    "XNNPACK runs other convolutions and matrix products than the file has: shapes, multiply-accumulates and what a "
    "layer was made of are not told."
)
FUSED = ("Relu", "Clip")  # what XNNPACK does within the layer before
MULTIPLY = ("convolution", "deconvolution", "fullyconnected", "batchmatrixmultiply")
MOVES = (
    "transpose",
    "staticreshape",
    "copy",
    "constantpad",
    "concatenate",
    "split",
    "slice",
    "convert",
    "spacetodepth",
)
# Operators of files, without XNN and _ -> XNNPACK's name
NAMES = {
    **dict.fromkeys(("conv2d", "depthwiseconv2d"), "convolution"),
    **dict.fromkeys(("convtranspose2d", "transposeconv"), "deconvolution"),
    "batchmatmul": "batchmatrixmultiply",
    "mul": "multiply",
    "sub": "subtract",
    "div": "divide",
    "globalavgpooling2d": "mean",
    "statictranspose": "transpose",
    "reshape": "staticreshape",
    **dict.fromkeys(("quantize", "dequantize"), "convert"),
    **dict.fromkeys(("maxpooling2d", "maxpool2d"), "maxpooling"),
    **dict.fromkeys(("avgpooling2d", "averagepool2d"), "averagepooling"),
    **dict.fromkeys(("staticconstantpad", "pad"), "constantpad"),
    **dict.fromkeys(("relu", "relu6", "relun1to1"), "clamp"),
    "logistic": "sigmoid",
    "nativecalltodimordercopyout": "copy",  # ExecuTorch's own
    **dict.fromkeys(("concatenation", *(f"concatenate{n}" for n in range(2, 6))), "concatenate"),
    **dict.fromkeys(("staticresizebilinear2d", "resizebilinear"), "resizebilinear"),
}
# XNNPACK's name -> operators of ONNX that are the same
ONNX = {
    "add": ("Add",),
    "multiply": ("Mul",),
    "subtract": ("Sub",),
    "divide": ("Div",),
    "mean": ("ReduceMean", "GlobalAveragePool"),
    "maxpooling": ("MaxPool",),
    "averagepooling": ("AveragePool", "GlobalAveragePool"),
    "clamp": ("Relu", "Clip"),
    "sigmoid": ("Sigmoid",),
    "hardswish": ("HardSwish",),
    "softmax": ("Softmax",),
    "concatenate": ("Concat",),
    "resizebilinear": ("Resize",),
}
# What XNNPACK runs -> operators that it runs so, besides those of the name: a convolution of 1x1 is a matrix product
ALSO = {
    "fullyconnected": ("convolution", "batchmatrixmultiply"),
    "copy": ("concatenate", "staticreshape"),
    "invalidunaryop": ("hardswish", "sigmoid", "tanh", "elu", "leakyrelu", "gelu", "exp"),  # in int8
}
MOVING = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Identity")  # operators of ONNX


@dataclass(frozen=True)
class Operator:
    """One of the file's. ``reads`` and ``gives`` are what the file calls its values. ``node``: of the parent, where the
    file says so."""

    kind: str
    reads: tuple[Hashable, ...] = ()
    gives: Hashable = None
    shape: tuple[int, ...] = ()
    precision: str = ""
    macs: int | None = None
    node: str = ""


@dataclass(frozen=True)
class Event:
    """What the profiler tells of: ``ms`` of each query. ``apart``: an operator that XNNPACK did not take."""

    name: str
    ms: np.ndarray
    apart: bool = False


@dataclass(frozen=True)
class Parent:
    """What is known of the fp32 file. ``tensors``: the one that each operator of the file gives, or "". ``same``: the
    operators whose values are those of the tensor: where a node that reads it is nowhere in the file, it may have been
    folded into the operator's weights."""

    model: Any
    tensors: Sequence[str]
    same: Collection[int] = ()
    note: str = ""


def told(found: Sequence[Layer], parent: Parent | None) -> Iterator[str]:
    """What to note of the layers."""
    yield CUT
    if not any(layer.shape for layer in found):
        yield OTHERS
    if parent is None:
        yield OWN
    elif parent.note:
        yield parent.note


def layers(
    events: Sequence[Event], operators: Sequence[Operator], parent: Parent | None, errors: Mapping[int, float]
) -> tuple[Layer, ...]:
    """In the order of the events. ``errors``: decibels, by operator."""
    places = matched([event.name for event in events], [operator.kind for operator in operators])
    ends = _ends(operators, places)
    made: list[tuple[str, ...]] = [()] * len(events)
    if parent is not None:
        made = parts(parent.model, ["" if at is None else parent.tensors[ends[at]] for at in places])
    found, again = [], Counter[str]()
    for i, (event, at) in enumerate(zip(events, places, strict=True)):
        operator = operators[at] if at is not None else Operator("")
        again[event.name] += 1
        found.append(
            Layer(
                name=f"{event.name} #{again[event.name]}",
                kind=event.name,
                times=event.ms if event.apart else event.ms + HALF_MS,
                precision="" if _base(event.name) in MOVES else _precision(event.name) or operator.precision,
                shape=operator.shape,
                macs=operator.macs,
                made_of=made[i],
                snr_db=None if at is None else errors.get(ends[at]),
            )
        )
    return tuple(found)


def _ends(operators: Sequence[Operator], places: Sequence[int | None]) -> dict[int, int]:
    """For each operator that runs the last that does so with it: an activation of the file that no event is of."""
    makers = {operators[at].gives: at for at in places if at is not None}
    ends = {at: at for at in makers.values()}
    for j, operator in enumerate(operators):
        if _base(operator.kind) == "clamp" and j not in ends:
            ends |= {makers[value]: j for value in operator.reads if value in makers}
    return ends


def known(operators: Sequence[Operator], parent: Artifact, query: np.ndarray, entry: Hashable) -> Parent:
    """Of operators that multiply their nodes are found by name, or by order and multiply-accumulates, and from there on
    those of the others by what they read. ``entry``: what the file calls its input."""
    model = graph.load_named(parent.path)
    nodes, note = _multiplied(operators, macs(model, parent.input.name, query))
    read_by = _reads(model, parent.input.name)
    of: dict[Hashable, str] = {entry: parent.input.name}  # value of the file -> tensor of the parent
    clamped = {value for operator in operators if _base(operator.kind) == "clamp" for value in operator.reads}
    taken, tensors = set(nodes.values()), []
    for i, operator in enumerate(operators):
        read, base = {of[value] for value in operator.reads if value in of}, _base(operator.kind)
        name, tensor = nodes.get(i, ""), ""
        if not name and base in ONNX and read:
            alike = (node.name for node in model.graph.node if node.op_type in ONNX[base] and node.name not in taken)
            name = next((each for each in alike if read_by[each] == read), "")
        if name:
            taken.add(name)
            tensor, inside = _given(model, name, alone=operator.gives in clamped)
            taken |= inside
            of[operator.gives] = tensor
        elif len(read) == 1 and base in (*MOVES, "cast"):
            of[operator.gives] = next(iter(read))
        tensors.append(tensor)
    same = [i for i, tensor in enumerate(tensors) if tensor and _users(model, tensor) <= taken]
    return Parent(model, tensors, same, note)


def _users(model: Any, tensor: str) -> set[str]:
    """The names of the nodes that read a tensor, moved or not."""
    found = set[str]()
    for node in model.graph.node:
        if tensor in node.input:
            found |= _users(model, node.output[0]) if node.op_type in MOVING else {node.name}
    return found


def _reads(model: Any, entry: str) -> dict[str, set[str]]:
    """What each node computes from, whatever has only been moved on the way there."""
    before: dict[str, str] = {entry: entry}
    found = {}
    for node in model.graph.node:
        found[node.name] = {before[name] for name in node.input if name in before}
        moved = node.op_type in MOVING and len(found[node.name]) == 1
        for name in node.output:
            before[name] = next(iter(found[node.name])) if moved else name
    return found


def _multiplied(operators: Sequence[Operator], counted: Mapping[str, int]) -> tuple[dict[int, str], str]:
    heavy = [i for i, operator in enumerate(operators) if operator.macs]
    nodes = {i: operators[i].node for i in heavy if counted.get(operators[i].node) == operators[i].macs}
    left = [i for i in heavy if i not in nodes]
    rest = [name for name, each in counted.items() if each and name not in nodes.values()]
    if [operators[i].macs for i in left] == [counted[name] for name in rest]:
        return nodes | dict(zip(left, rest, strict=True)), ""
    return nodes, UNKNOWN.format(f"{len(left)} in the file and {len(rest)} in the parent are left")


def _given(model: Any, name: str, alone: bool) -> tuple[str, set[str]]:
    """What is given by an operator made of this node, and of the activation behind it where it is not ``alone``: the
    tensor, and the activation's name."""
    tensor = next(str(node.output[0]) for node in model.graph.node if node.name == name)
    users = [node for node in model.graph.node if tensor in node.input]
    if not alone and len(users) == 1 and users[0].op_type in FUSED:
        return str(users[0].output[0]), {users[0].name}
    return tensor, set()


def matched(events: Sequence[str], kinds: Sequence[str]) -> list[int | None]:
    """For each event the place of the file's operator that it is, both in order: as many as can be, those that multiply
    first. Operators are fused and left out, and events added; where one that multiplies is without the other, none is
    sure, and all are None."""
    best = np.zeros((len(events) + 1, len(kinds) + 1))
    same = [[_same(_base(event), _base(kind)) for kind in kinds] for event in events]
    weight = [len(kinds) + 1 if _base(event) in MULTIPLY else 1 for event in events]
    for i in reversed(range(len(events))):
        for j in reversed(range(len(kinds))):
            both = best[i + 1, j + 1] + weight[i] if same[i][j] else 0.0
            best[i, j] = max(both, best[i + 1, j], best[i, j + 1])
    found: list[int | None] = [None] * len(events)
    i = j = 0
    while i < len(events) and j < len(kinds):
        if same[i][j] and best[i, j] == best[i + 1, j + 1] + weight[i]:
            found[i] = j
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    heavy = {at for event, at in zip(events, found, strict=True) if _base(event) in MULTIPLY}
    if None in heavy or heavy != {j for j, kind in enumerate(kinds) if _base(kind) in MULTIPLY}:
        return [None] * len(events)
    return found


def _same(event: str, kind: str) -> bool:
    return event == kind or kind in ALSO.get(event, ())


def _base(name: str) -> str:
    """An operator by XNNPACK's name, in one word: "Fully Connected (NC, F32) GEMM", FULLY_CONNECTED and
    XNNFullyConnected are fullyconnected."""
    plain = re.sub(r"[^a-z0-9]", "", name.removeprefix("XNN").partition(" (")[0].lower())
    return NAMES.get(plain, plain)


def _precision(event: str) -> str:
    """Of the first type in brackets: that of the values that are multiplied."""
    for word in re.findall(r"\w+", event.partition("(")[2].partition(")")[0]):
        if kind := re.fullmatch(r"(BF16|F16|F32)|Q?[A-Z]*?[SUCD]8\w?", word):
            return {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}.get(kind[1] or "", "int8")
    return ""
