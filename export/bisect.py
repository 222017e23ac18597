"""Where two ONNX files of one network part: every tensor that both compute, on the same images, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import InputSpec
from kdcompress.errors import UsageError
from kdcompress.export import graph
from kdcompress.export.describe import artifact_of
from kdcompress.export.run_onnxruntime import open_session_of
from kdcompress.parity import TOLERANCES

IMAGES = 16
INT8 = 0.1  # relative; parity does not judge int8's logits by a number


@dataclass(frozen=True)
class Layer:
    """One tensor. Errors are the largest difference as a share of the reference's largest value."""

    layer: str
    kind: str  # Conv, Relu, ...
    tensor: str
    before: float  # of the worst tensor it is computed from
    after: float

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.layer} (tensor {self.tensor}): error {self.before:.3g} before, {self.after:.3g} after"
        )


def tolerance_of(precision: str) -> float:
    allowed = TOLERANCES[precision].relative
    return INT8 if allowed is None else allowed


def layers(reference: Path, other: Path, images: np.ndarray | None = None) -> list[Layer]:
    """Every tensor that both files compute under the same name, in the order of the reference. ``images``: uint8
    [N, H, W, C], random pixels where there are none.

    Raises UsageError where the two do not take the same images or have no tensor in common.
    """
    specs = [artifact_of(path).input for path in (reference, other)]
    sizes = [(spec.height, spec.width, spec.channels) for spec in specs]
    if sizes[0] != sizes[1]:
        raise UsageError("The files take images of different sizes.", where=other, got=sizes[1], allowed=sizes[0])
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, *sizes[0]), dtype=np.uint8)
    models = [graph.load(path) for path in (reference, other)]
    common = in_common(*models)
    values = [_tensors(model, spec, common, images) for model, spec in zip(models, specs, strict=True)]
    compared = {name: _error(values[0][name], values[1][name]) for name in common}
    errors = {name: error for name, error in compared.items() if error is not None}
    if not errors:
        raise UsageError(
            "The two files have no tensor in common.",
            where=other,
            allowed=f"another form of {reference}",
            hint="both have to be made from one network: give an int8 or fp16 file and its fp32 parent",
        )
    return list(_walk(models[0], errors))


def first_difference(found: list[Layer], tolerance: float) -> Layer | None:
    """The first tensor that differs by more than ``tolerance``; NaN differs."""
    return next((step for step in found if not step.after <= tolerance), None)


def report(reference: Path, other: str | Path, tolerance: float | None = None) -> dict[str, Any]:
    """What `kdcompress inspect --bisect` says."""
    other = Path(other)
    allowed = tolerance_of(artifact_of(other).precision) if tolerance is None else tolerance
    found = layers(reference, other)
    first, listed = first_difference(found, allowed), []
    for step in found:
        shown = {name: float(f"{getattr(step, name):.3g}") for name in ("before", "after")}
        listed.append({**asdict(step), **shown})
    return {
        "reference": str(reference),
        "file": str(other),
        "images": f"{IMAGES} of random pixels",
        "tolerance": allowed,
        "first_difference": str(first) if first else None,
        "tensors": listed,
    }


def _walk(model: Any, errors: dict[str, float]) -> Iterator[Layer]:
    """The error before a layer is that of the nearest compared tensors: a tensor that only one file has passes on
    those it is computed from."""
    passed: dict[str, float] = {}
    for node in model.graph.node:
        before = max((passed.get(name, 0.0) for name in node.input), default=0.0)
        for name in node.output:
            passed[name] = errors.get(name, before)
            if name in errors:
                yield Layer(node.name, node.op_type, name, before, errors[name])


def in_common(reference: Any, other: Any) -> list[str]:
    """The tensors that both graphs compute under the same name, in the order of the reference."""
    made = {name for node in other.graph.node for name in node.output if name}
    return [name for node in reference.graph.node for name in node.output if name in made]


def computed(
    model: Any, spec: InputSpec, names: Sequence[str], images: np.ndarray, size: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """These tensors of a graph, by name, for the images, ``size`` at a time or the batch that the graph has: whole
    batches only."""
    as_read = _as_read(model)
    read = [as_read.get(name, name) for name in names]
    session = open_session_of(model, read)
    size = spec.batch or size or len(images)
    for at in range(0, len(images) - size + 1, size):
        yield dict(zip(names, session.run(read, {spec.name: spec.prepare(images[at : at + size])}), strict=True))


def _tensors(model: Any, spec: InputSpec, names: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    parts = list(computed(model, spec, names, images)) if names else []
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in names if parts}


def _as_read(model: Any) -> dict[str, str]:
    """A tensor that is quantised -> what it is dequantised to: quantising may do a ReLU as well."""
    restored = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.input[0]: restored[node.output[0]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.output[0] in restored
    }


def _error(expected: np.ndarray, got: np.ndarray) -> float | None:
    """None where the tensor is no result of the images: another type or shape, or whole numbers."""
    if expected.shape != got.shape or not all(np.issubdtype(a.dtype, np.floating) for a in (expected, got)):
        return None
    difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    return float(difference.max(initial=0.0)) / (float(np.abs(expected).max(initial=0.0)) or 1.0)
