"""PyTorch -> ONNX: one file, preprocessing inside, named axes, checked before it takes its name."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcompress import __version__
from kdcompress.artifact import Artifact, InputSpec, replacing
from kdcompress.errors import KDCompressError, UsageError, cause, place
from kdcompress.export import graph
from kdcompress.export.quiet import quiet
from kdcompress.export.run_onnxruntime import open_session
from kdcompress.export.run_torch import TorchRunner
from kdcompress.parity import compared, of_sets
from kdcompress.tasks import task_of

if TYPE_CHECKING:
    from torch import nn

OPSETS = range(18, 24)
ROUNDED = 4.0  # times as far as PyTorch's own rounding a file may be from it
SINGLE_FILE_LIMIT = 2**31 - 2**20  # protobuf's 2 GB, less room for the graph


def export_onnx(
    module: nn.Module,
    spec: InputSpec,
    path: Path,
    *,
    opset: int = 20,
    precision: str = "fp32",
    metadata: dict[str, str] | None = None,
    trained: bool = True,
) -> Artifact:
    """Write ``module``, which maps the input that ``spec`` describes to its outputs, as an ONNX file.

    The module is copied, so its mode, device and weights stay as they are. A dynamic batch axis is
    named ``batch``; the file is run at batch sizes it was not traced with and compared with PyTorch. ``trained``: False
    for a network whose numbers mean nothing yet: it is run all the same, and nothing that it gives is judged.
    Raises UsageError for an unsupported opset and KDCompressError where the export fails.
    """
    from kdcompress.models.copying import copied

    if opset not in OPSETS:
        raise UsageError("This ONNX opset is not supported.", got=opset, allowed=f"{OPSETS[0]} to {OPSETS[-1]}")
    net = copied(module).cpu().eval()
    size = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    if size > SINGLE_FILE_LIMIT:
        raise UsageError("The model does not fit a single ONNX file.", got=f"{size} bytes", allowed=SINGLE_FILE_LIMIT)
    examples = [_example(spec, batch) for batch in ([spec.batch] if spec.batch else [1, 3])]
    expected = [_expected(net, spec, x, trained) for x in examples]
    model = _trace(net, spec, opset)
    graph.name_layers(model, [name for name, _ in net.named_modules()])
    graph.strip(model)
    facts = {
        "kdcompress.version": __version__,
        "kdcompress.input": json.dumps(spec.to_json()),
        "kdcompress.precision": precision,
        "labels": json.dumps(spec.labels),
        "layout": spec.layout,
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
    }
    graph.set_metadata(model, {**facts, **(metadata or {})})
    with replacing(path) as temporary:
        graph.save(model, temporary)
        _check(spec, temporary, examples, expected if trained else None, net)
    versions = {name: version(name) for name in ("torch", "onnx", "onnxscript")}
    return Artifact.of(path, "onnx", precision, spec, provenance={"opset": opset, "versions": versions})


def _trace(net: nn.Module, spec: InputSpec, opset: int) -> Any:
    import torch

    example = torch.from_numpy(_example(spec, spec.batch or 2))
    if spec.layout == "uint8-nhwc":
        # Laid out in memory as [N, C, H, W]: from a channels-last input, adaptive pooling is traced as a Gather.
        example = example.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    shapes = None if spec.batch else ({0: torch.export.Dim("batch")},)
    try:
        with quiet():
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name],
                output_names=[output.name for output in spec.outputs],
                dynamic_shapes=shapes,
                verbose=False,
            )
        assert program is not None  # the dynamo exporter returns its program
        return program.model_proto
    except Exception as error:  # a user's model can fail in any way; the first cause says how
        raise KDCompressError(
            "PyTorch cannot export this model to ONNX.",
            where=_where(net, example, error),
            got=cause(error),
            hint="the model's forward must be free of branches on tensor values and of operators without ONNX form",
        ) from error


def _expected(net: nn.Module, spec: InputSpec, x: np.ndarray, trained: bool) -> tuple[np.ndarray, ...]:
    """PyTorch's outputs; whatever makes a model unfit to ship is found here, before the slow export."""
    where = _where(net, x)
    try:
        with TorchRunner(net, spec) as runner:
            first, second = runner.infer(x), runner.infer(x)
    except Exception as error:  # a user's model can fail in any way
        hint = "where the forward uses the batch size as a number: use -1 in reshape, or give export.batch"
        raise KDCompressError(
            "The model does not run in PyTorch.", where=_where(net, x, error), got=cause(error), hint=hint
        ) from error
    if [output.shape for output in first] != [(len(x), *output.shape) for output in spec.outputs]:
        wanted = [f"{output.name} {[len(x), *output.shape]}" for output in spec.outputs]
        raise UsageError(
            "The model's output does not fit its labels.",
            where=where,
            got=" and ".join(str(list(output.shape)) for output in first),
            allowed=" and ".join(wanted),
        )
    for output, one, again in zip(spec.outputs, first, second, strict=True):
        if trained and not np.isfinite(one).all():
            what = f"The model's {output.name} are not finite."
            raise KDCompressError(what, where=where, hint="look at the training's loss")
        if not np.allclose(one, again, rtol=1e-3, atol=1e-5, equal_nan=True):
            what = f"The model gives other {output.name} for the same image in eval mode."
            hint = "let what draws random numbers, such as dropout or noise, do so only where self.training is true"
            raise KDCompressError(what, where=where, hint=hint)
    return first


def _check(
    spec: InputSpec,
    path: Path,
    examples: list[np.ndarray],
    expected: list[tuple[np.ndarray, ...]] | None,
    net: nn.Module,
) -> None:
    """Run the file, and compare it with PyTorch where outputs are expected, at batch sizes other than the traced one
    where the batch is dynamic."""
    session, names = open_session(path), [output.name for output in spec.outputs]
    for i, x in enumerate(examples):
        try:
            found = session.run(names, {spec.name: x})
        except Exception as error:  # onnxruntime's exceptions share no base class of its own
            raise KDCompressError(
                f"The exported model does not run at batch size {len(x)}.",
                got=cause(error),
                hint="the model's forward uses the batch size as a number: use -1 in reshape, or give export.batch",
            ) from error
        if expected is None:
            continue
        shapes = [[each.shape for each in outputs] for outputs in (found, expected[i])]
        if spec.chosen and shapes[0] == shapes[1]:
            differences = [float(each.max()) for each in of_sets(expected[i], found)]
        else:
            differences = [_worst(*pair) for pair in zip(found, expected[i], strict=True)]
        for name, worst, wanted in zip(names, differences, expected[i], strict=True):
            allowed = 1e-3 * max(1.0, float(np.abs(wanted).max()))
            if not worst <= allowed:
                allowed = max(allowed, ROUNDED * _rounding(net, spec, x, expected[i])[name])
            if not worst <= allowed and not compared(expected[i], found, task_of(spec)):  # NaN fails too
                raise KDCompressError(
                    f"The exported model's {name} differ from PyTorch's at batch size {len(x)}.",
                    got=f"{worst:.3g}",
                    allowed=f"{allowed:.3g}",
                )


def _rounding(net: nn.Module, spec: InputSpec, x: np.ndarray, found: tuple[np.ndarray, ...]) -> dict[str, float]:
    """By output, how far PyTorch itself is from what it computes in float64: a box that is coded as an exponent can be
    far off where the network has numbers that no training gave it. 0 where it does not run in float64."""
    from kdcompress.models.copying import copied

    try:
        with TorchRunner(copied(net).double(), spec) as runner:
            exact = runner.infer(x)
    except Exception:  # a user's model can fail in any way
        exact = found
    pairs = zip(spec.outputs, found, exact, strict=True)
    return {output.name: float(np.abs(one - other).max()) for output, one, other in pairs}


def _worst(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max()) if got.shape == wanted.shape else float("inf")


def _where(net: nn.Module, x: Any, error: Exception | None = None) -> str:
    at = place(error) if error else None
    return f"{type(net).__name__}, input {list(x.shape)} {x.dtype}" + (f"; {at}" if at else "")


def _example(spec: InputSpec, batch: int) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (batch, spec.height, spec.width, spec.channels), dtype=np.uint8)
    return spec.prepare(images)
