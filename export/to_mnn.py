"""fp32 ONNX -> MNN: one file that takes the same input, batch included, as the ONNX it starts from.

fp16 is the type the weights are stored in; the runtime computes in fp16 where the CPU has it and it is asked for low
precision. There is no int8 here: of the calibrations of the quantiser in MNN 3.6.1's Python package, KL crashes, EMA
gives wrong answers, and every int8 file gives wrong answers to batches of more than one image. Its other option,
`--weightQuantBits`, makes the file smaller and computes in float.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, replacing
from kdcompress.errors import KDCompressError, ended
from kdcompress.export import graph
from kdcompress.export.formats import ExportJob, Target, Writer, writers
from kdcompress.optional import require_installed

# The native module, not MNN.tools.mnnconvert: that one installs a logging package by pip when it is imported (and
# downgrades protobuf with it), and reports what was converted to its vendor. A process of its own, for it may crash.
CONVERT = """
import sys
sys.path[:] = filter(None, sys.path)  # without the current folder
import _tools
_tools.mnnconvert(['mnnconvert', *sys.argv[1:]])
"""
CONVERT_LIMIT_S = 300
CONVOLUTIONS = ("Convolution", "ConvolutionDepthwise", "Deconvolution", "DeconvolutionDepthwise")
FROM_MATMUL = "__matmul_converted"  # a matrix product with fixed weights becomes a 1x1 convolution of this name
STORED = {3: "fp16", 1: "int8", 2: "int8"}  # quanParameter.type; without one the weights are fp32


def check() -> None:
    require_installed("MNN", "mnn", "An MNN model")


def write(job: ExportJob, target: Target) -> Artifact:
    path = job.path(target, ".mnn")
    half = ["--fp16"] if target.precision == "fp16" else []
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        source = job.parent.path
        if target.precision == "fp32":
            source = Path(folder, "source.onnx")
            model = graph.load(job.parent.path)
            write_out_gelus(model)
            graph.save(model, source)
        convert("ONNX", source, "--bizCode", "kdcompress", *half, "--MNNModel", temporary)
        found, identity = inspect(temporary)
        # A random identity is all that differs between two conversions of a model.
        steady = str(uuid.uuid5(uuid.NAMESPACE_OID, job.parent.sha256 + target.precision))
        temporary.write_bytes(temporary.read_bytes().replace(identity.encode(), steady.encode()))
        stored = {kind for family in ("conv", "gemm") for kind, count in found[family].items() if count}
        if stored - {target.precision}:
            raise KDCompressError(f"Not every layer's weights are {target.precision}.", where=path.name, got=found)
    provenance = {"coverage": found, "versions": {"MNN": version("MNN")}}
    return Artifact.of(path, "mnn", target.precision, job.parent.input, target=target.name, provenance=provenance)


def write_out_gelus(model: Any) -> None:
    """Each exact GELU as x * (0.5 + 0.5 * erf(x / sqrt(2))), in an order in which MNN does not find it again: its own
    operator computes the approximation by tanh, which is up to 5e-4 away."""
    import onnx

    nodes, factors = [], {"gelu_scale": math.sqrt(0.5), "gelu_half": 0.5}
    for node in model.graph.node:
        approximate = next((a.s for a in node.attribute if a.name == "approximate"), b"none")
        if node.op_type != "Gelu" or approximate != b"none":
            nodes.append(node)
            continue
        value, result = node.input[0], node.output[0]
        steps = [
            ("Mul", [value, "gelu_scale"]),
            ("Erf", [f"{result}/Mul"]),
            ("Mul", [f"{result}/Erf", "gelu_half"]),
            ("Add", [f"{result}/Mul.2", "gelu_half"]),
            ("Mul", [f"{result}/Add", value]),
        ]
        gives = [f"{result}/Mul", f"{result}/Erf", f"{result}/Mul.2", f"{result}/Add", result]
        nodes += [
            onnx.helper.make_node(kind, reads, [name], name=f"{node.name}/{name}")
            for (kind, reads), name in zip(steps, gives, strict=True)
        ]
    if len(nodes) > len(model.graph.node):
        for name, factor in factors.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factor, np.float32), name))
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def convert(format: str, source: Path, *options: str | Path) -> None:
    """Run MNN's converter; the last of its options is the file to write. Raises KDCompressError where it writes none,
    names what it does not support, or takes too long."""
    command = [sys.executable, "-c", CONVERT, "-f", format, "--modelFile", str(source), *map(str, options)]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=CONVERT_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise KDCompressError("MNN's converter did not end.", where=source, got=f"{error.timeout:.0f} s") from error
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    failed = [line for line in lines if "not support" in line.lower()]
    if failed or done.returncode or not Path(options[-1]).is_file():
        raise KDCompressError(
            "MNN cannot convert this model.",
            where=source,
            got=" | ".join(failed or [*lines[-3:], ended(done.returncode)])[:400],
            hint="change these operators in the model, or leave this target out",
        )


def contents(path: Path) -> dict[str, Any]:
    """The file as MNN writes it as text, without its weights: ``oplists``, ``tensorName`` and so on."""
    with tempfile.TemporaryDirectory() as folder:
        bare, text = Path(folder, "bare.mnn"), Path(folder, "model.json")
        convert("MNN", path, "--bizCode", "kdcompress", "--saveExternalData", "--MNNModel", bare)  # weights are apart
        convert("MNN", bare, "--JsonFile", text)  # which are slow to write and read as text
        found: dict[str, Any] = json.loads(text.read_text(encoding="utf-8"))
    return found


def inspect(path: Path) -> tuple[dict[str, Any], str]:
    """(coverage, the file's uuid). Coverage is how many layers have weights of which type, and the operators by kind::

        {"conv": {"fp16": 9, "fp32": 0}, "gemm": {"fp16": 1, "fp32": 0}, "operators": {"Convolution": 10, ...}}

    A matrix product that MNN has made a 1x1 convolution counts under gemm and, as an operator, as what it now is.
    """
    model = contents(path)
    operators = model["oplists"]
    found: dict[str, Counter[str]] = {family: Counter(fp16=0, fp32=0) for family in ("conv", "gemm")}
    for operator in operators:
        if operator["type"] in CONVOLUTIONS:
            family = "gemm" if operator["name"].endswith(FROM_MATMUL) else "conv"
            quantised = operator["main"].get("quanParameter")
            found[family][STORED.get(quantised["type"], "other") if quantised else "fp32"] += 1
    kinds = Counter(operator["type"] for operator in operators)
    return {**{family: dict(counts) for family, counts in found.items()}, "operators": dict(kinds)}, model["mnn_uuid"]


for precision in ("fp32", "fp16"):
    writers.register(f"mnn-{precision}")(Writer(write, check, ("MNN",)))
