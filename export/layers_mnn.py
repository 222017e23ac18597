"""MNN files layer by layer, by callbacks before and after each operator of a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.export import graph
from kdcompress.export.layers import readers
from kdcompress.export.mnn_operators import Operator, Shape, operators, owner
from kdcompress.export.parts import parts
from kdcompress.export.quiet import native_output
from kdcompress.export.run_mnn import PRECISIONS, MnnRunner, check, library
from kdcompress.export.to_mnn import contents
from kdcompress.export.turns import in_turns, unlike
from kdcompress.export.value_errors import value_errors
from kdcompress.layers import Layer, Profile

MOVES = ("Raster", "Cast", "ConvertTensor")
TIMED = (
    "Times are taken in Python, before and after each operator: {us:.1f} microseconds of each layer's time are that, "
    "by the sum of the layers less the same session without callbacks."
)


@dataclass(frozen=True)
class Step:
    """An operator as it runs, with the shapes of the tensors that it reads and of the first that it gives."""

    name: str
    kind: str
    inputs: tuple[Shape, ...]
    output: Shape


@readers.register("mnn")
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    """Each query runs with callbacks, in the same session without them, and as it is benchmarked, in turns.

    Raises UsageError where the file cannot be loaded, KDCompressError where it cannot be read as text.
    """
    check()
    with MnnRunner(artifact, threads) as runner, native_output():
        session = Session(artifact, threads, queries[0].shape)
        steps = session.steps(queries[0])
        precision = _arithmetic(session, artifact, queries[0])
        turns = in_turns([runner.infer, session.run, session.profiled], queries)
    (whole, _), (plain, _), (_, rows) = turns
    times = np.array(rows).T  # [steps, queries]
    known = operators(contents(artifact.path))
    of = [known.get(owner(step.name, known)) for step in steps]
    made: list[tuple[str, ...]] = [()] * len(steps)
    errors: dict[int, float] = {}
    if parent is not None:
        model = graph.load_named(parent.path)
        tensors = _last_of_each(steps, of)
        made = parts(model, [tensors.get(i, "") for i in range(len(steps))])
        there = {name for node in model.graph.node for name in node.output}
        tensors = {i: tensor for i, tensor in tensors.items() if tensor in there}
        with native_output():
            errors = value_errors(model, parent, tensors, queries, session.values)
    layers = tuple(
        Layer(
            name=name,
            kind=_kind(step, operator),
            times=times[i],
            precision="" if step.kind in MOVES else "int8" if "Int8" in step.kind else precision,
            shape=step.output,
            macs=operator.macs(step.inputs, step.output) if operator and step.name in known else None,
            made_of=made[i],
            snr_db=errors.get(i),
        )
        for i, (name, step, operator) in enumerate(zip(unlike(step.name for step in steps), steps, of, strict=True))
    )
    own = max(0.0, float(np.median(times.sum(0) - plain))) / len(steps) * 1e3
    return Profile("mnn", library().version(), threads, layers, whole, (TIMED.format(us=own),))


def _arithmetic(session: Session, artifact: Artifact, query: np.ndarray) -> str:
    """fp16 where a session of low precision gives other values than one of high: MNN does not say whether it computes
    in fp16 on this CPU."""
    if PRECISIONS[artifact.precision] == PRECISIONS["fp32"]:
        return "fp32"
    found = session.values(query)
    exact = Session(artifact, session.threads, query.shape, PRECISIONS["fp32"]).values(query)
    return "fp32" if all(np.array_equal(found[place], exact[place]) for place in found) else "fp16"


def _last_of_each(steps: Sequence[Step], of: Sequence[Operator | None]) -> dict[int, str]:
    """The place of the last step that computes each tensor of the file, or moves values to it where none computes, and
    the tensor: the steps before it are on the way."""
    last: dict[str, int] = {}
    for i, (step, operator) in enumerate(zip(steps, of, strict=True)):
        before = last.get(operator.tensor) if operator is not None else None
        if operator is not None and (before is None or step.kind not in MOVES or steps[before].kind in MOVES):
            last[operator.tensor] = i
    return {i: tensor for tensor, i in last.items()}


def _kind(step: Step, operator: Operator | None) -> str:
    """With the activation in it, and what a loop (While) computes."""
    if operator is None or step.kind not in (operator.kind, "While"):
        return step.kind
    named = operator.kind if step.kind == operator.kind else f"{step.kind}({operator.kind})"
    return f"{named}+{operator.activation}" if operator.activation else named


class Session:
    """MNN's other way to run a file: it tells of each operator. Options and kernels are those of the runner."""

    def __init__(self, artifact: Artifact, threads: int, shape: Shape, precision: str | None = None):
        self._mnn, self.threads = library(), threads
        asked = precision or PRECISIONS[artifact.precision]
        config = {"precision": asked, "numThread": threads, "backend": "CPU"}
        self._net = self._mnn.Interpreter(str(artifact.path))
        self._session = self._net.createSession(config)
        self._input = self._net.getSessionInput(self._session)
        self._net.resizeTensor(self._input, shape)
        self._net.resizeSession(self._session)
        whole = artifact.input.layout == "uint8-nhwc"
        self._type = self._mnn.Halide_Type_Uint8 if whole else self._mnn.Halide_Type_Float

    def run(self, x: np.ndarray) -> None:
        self._give(x)
        self._net.runSession(self._session)

    def profiled(self, x: np.ndarray) -> list[float]:
        """Milliseconds of each operator."""
        self._give(x)
        began: list[int] = []
        ended: list[int] = []

        def before(_tensors: Any, _about: Any) -> bool:
            began.append(perf_counter_ns())
            return True

        def after(_tensors: Any, _about: Any) -> bool:
            ended.append(perf_counter_ns())
            return True

        self._net.runSessionWithCallBackInfo(self._session, before, after)
        return [(end - start) / 1e6 for start, end in zip(began, ended, strict=True)]

    def steps(self, x: np.ndarray) -> list[Step]:
        self._give(x)
        read: list[tuple[Shape, ...]] = []
        found: list[Step] = []

        def before(tensors: Any, _about: Any) -> bool:
            read.append(tuple(tuple(tensor.getShape()) for tensor in tensors))
            return True

        def after(tensors: Any, about: Any) -> bool:
            output = tuple(tensors[0].getShape()) if tensors else ()
            found.append(Step(about.getName(), about.getType(), read[-1], output))
            return True

        self._net.runSessionWithCallBackInfo(self._session, before, after)
        return found

    def values(self, x: np.ndarray) -> dict[int, np.ndarray]:
        """What each operator gives, by its place, where that is numbers with a fraction."""
        self._give(x)
        found: dict[int, np.ndarray] = {}
        places = iter(range(1 << 30))

        def after(tensors: Any, _about: Any) -> bool:
            place = next(places)
            if tensors and tensors[0].getDataType() == self._mnn.Halide_Type_Float and all(tensors[0].getShape()):
                found[place] = self._copied(tensors[0])
            return True

        self._net.runSessionWithCallBackInfo(self._session, _go_on, after)
        return found

    def _copied(self, tensor: Any) -> np.ndarray:
        shape = tuple(tensor.getShape())
        caffe = self._mnn.Tensor_DimensionType_Caffe
        host = self._mnn.Tensor(shape, self._mnn.Halide_Type_Float, np.zeros(shape, np.float32), caffe)
        tensor.copyToHostTensor(host)
        return np.array(host.getNumpyData(), np.float32, copy=True).reshape(shape)

    def _give(self, x: np.ndarray) -> None:
        # Caffe: the dimensions as the ONNX had them, whatever they mean.
        self._input.copyFrom(self._mnn.Tensor(x.shape, self._type, x, self._mnn.Tensor_DimensionType_Caffe))


def _go_on(_tensors: Any, _about: Any) -> bool:
    return True
