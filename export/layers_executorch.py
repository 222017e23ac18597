"""ExecuTorch programs layer by layer, by an ETDump of the runtime and XNNPACK's profiler in it."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError
from kdcompress.export.layers import readers
from kdcompress.export.quiet import native_errors, quiet
from kdcompress.export.run_executorch import ExecuTorchRunner, check, library
from kdcompress.export.turns import in_turns
from kdcompress.export.value_errors import value_errors
from kdcompress.export.xnnpack_layers import Event, Operator, Parent, known, layers, told
from kdcompress.layers import Profile

RUNTIME, DELEGATE = "executorch", "XnnpackBackend"
CALLED = "native_call_"  # before the name of an operator that XNNPACK did not take
CALLS = ("OPERATOR_CALL", "DELEGATE_CALL", "Method::execute")  # events around those of operators
TYPES = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "qint8": "int8", "quint8": "int8", "qcint8": "int8"}
INSIDE = (
    "A program does not give the values between the operators of XNNPACK: the only error is that of its output, at the "
    "layer that makes it."
)


@readers.register(RUNTIME)
def read(artifact: Artifact, queries: Sequence[np.ndarray], threads: int, parent: Artifact | None) -> Profile:
    """Each query runs with an ETDump and without one, in turns.

    Raises UsageError where the file cannot be loaded, KDCompressError where ExecuTorch was built without its tracer.
    """
    check()
    with ExecuTorchRunner(artifact, threads) as runner:
        of_file = operators(artifact.path.read_bytes())
        above = known(of_file, parent, queries[0], of_file[0].reads[0]) if parent is not None else None
        traced = Traced(artifact.path)
        (whole, _), (_, runs) = in_turns([runner.infer, traced.run], queries)
        errors = _errors(above, parent, runner, queries) if above is not None and parent is not None else {}
        found = layers(list(traced.events(runs)), of_file, above, errors)
    notes = [*told(found, above), *([INSIDE] if above is not None else [])]
    return Profile(RUNTIME, version("executorch"), threads, found, whole, tuple(notes))


def _errors(
    above: Parent, parent: Artifact, runner: ExecuTorchRunner, queries: Sequence[np.ndarray]
) -> dict[int, float]:
    """Of the operators that make an output."""
    places = {output.name: at for at, output in enumerate(parent.input.outputs)}
    wanted = {i: tensor for i, tensor in enumerate(above.tensors) if i in above.same and tensor in places}

    def values(query: np.ndarray) -> Mapping[int, np.ndarray]:
        given = runner.infer(query)
        return {i: given[places[tensor]] for i, tensor in wanted.items()}

    return value_errors(above.model, parent, wanted, queries, values)


class Traced:
    """A program that is loaded with an ETDump; the threads are the process's."""

    def __init__(self, path: Path):
        with native_errors():
            self._program = library().Runtime.get().load_program(path, enable_etdump=True)
            self._execute = self._program.load_method("forward").execute
        self._runs = 0

    def run(self, x: np.ndarray) -> int:
        """The number of this run."""
        import torch

        self._execute((torch.from_numpy(x),))
        self._runs += 1
        return self._runs - 1

    def events(self, runs: Sequence[int]) -> Iterator[Event]:
        """Of the operators, in the order in which they run, in these runs."""
        with tempfile.TemporaryDirectory() as folder, native_errors():
            from executorch.devtools import Inspector

            path = Path(folder, "etdump")
            try:
                self._program.write_etdump_result_to_file(str(path), str(Path(folder, "values")))
            except RuntimeError as error:
                raise KDCompressError(
                    "This ExecuTorch was built without its event tracer: it does not say what its operators take.",
                    got=str(error).splitlines()[0],
                ) from error
            blocks = Inspector(etdump_path=str(path)).event_blocks
        (block,) = (each for each in blocks if any(event.name == CALLS[-1] for event in each.events))
        for event in block.events:
            if event.name not in CALLS and event.perf_data is not None:
                name = re.sub(r" #\d+$", "", event.name) if event.is_delegated_op else event.name
                yield Event(name, np.array(event.perf_data.raw)[list(runs)], not event.is_delegated_op)


def operators(content: bytes) -> list[Operator]:
    """Those of a program, in the order in which they run; those that XNNPACK took are read from what it was given."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        program = deserialize_pte_binary(content).program
    plan = next(plan for plan in program.execution_plan if plan.name == "forward")
    found: list[Operator] = []
    for instruction in (each.instr_args for chain in plan.chains for each in chain.instructions):
        if hasattr(instruction, "delegate_index"):
            delegate = plan.delegates[instruction.delegate_index]
            if delegate.id == DELEGATE:
                payload = bytes(program.backend_delegate_data[delegate.processed.index].data)
                found += _delegated(payload, instruction.args)
        elif hasattr(instruction, "op_index"):
            operator = plan.operators[instruction.op_index]
            name = ".".join(filter(None, (operator.name.rpartition("::")[2], operator.overload)))
            reads, gives = tuple(instruction.args[:1]), instruction.args[-1]
            found.append(Operator(f"{CALLED}{name}", reads, gives))
    return found


def _delegated(payload: bytes, arguments: Sequence[int]) -> list[Operator]:
    """``arguments``: the program's numbers of the values that XNNPACK is given and gives, by the place in them."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as serialised
        from executorch.exir._serialize._flatbuffer import _flatc_decompile

        header = serialised.XNNHeader.from_bytes(payload[: serialised.XNNHeader.EXPECTED_LENGTH])
        end = header.flatbuffer_offset + header.flatbuffer_size
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(serialised._get_schema_bytes())
        binary.write_bytes(payload[header.flatbuffer_offset : end])
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        text = Path(folder, "graph.json").read_text()
    given = json.loads(re.sub(r"(?<=: )(-?)inf\b", r"\1Infinity", text))
    values = [each["xvalue_union"] for each in given["xvalues"]]
    tensors = {value["id_out"]: value for value in (each.get("tensor_value", each) for each in values)}
    found = [_operator(each["xnode_union_type"], each["xnode_union"], tensors) for each in given["xnodes"]]
    numbers = {
        number: arguments[tensor["external_id"]] if tensor["external_id"] < len(arguments) else (payload[:30], number)
        for number, tensor in tensors.items()
    }
    return [
        replace(each, reads=tuple(numbers.get(read) for read in each.reads), gives=numbers.get(each.gives))
        for each in found
    ]


def _operator(kind: str, node: dict[str, Any], tensors: dict[int, dict[str, Any]]) -> Operator:
    reads = tuple(node[key] for key in ("input_id", *(f"input{i}_id" for i in range(1, 6))) if key in node)
    output, source = (tensors.get(number, {}) for number in (node.get("output_id", -1), reads[0] if reads else -1))
    shape, read = tuple(output.get("dims", ())), tuple(source.get("dims", ()))
    each = None
    if kind in ("XNNConv2d", "XNNDepthwiseConv2d"):
        each = math.prod(shape) * node["group_input_channels"] * node["kernel_height"] * node["kernel_width"]
    elif kind == "XNNConvTranspose2d":
        each = math.prod(read) * node["group_output_channels"] * node["kernel_height"] * node["kernel_width"]
    elif kind in ("XNNFullyConnected", "XNNBatchMatrixMultiply") and read:
        each = math.prod(shape) * read[-1]
    precision = TYPES.get(output.get("datatype", "").removeprefix("xnn_datatype_"), "")
    return Operator(kind, reads, node.get("output_id"), shape, precision, each)
