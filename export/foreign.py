"""Model files that kdcompress did not make, as artefacts whose latency can be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdcompress.artifact import Artifact, InputSpec, Output
from kdcompress.errors import UsageError
from kdcompress.export import graph
from kdcompress.export.describe import artifact_of, reader_of
from kdcompress.export.quiet import native_errors
from kdcompress.untrusted import MOST_CLASSES, MOST_PIXELS


def any_artifact_of(path: Path) -> Artifact:
    """The artefact in a file that has no record beside it, of kdcompress's or from elsewhere."""
    if path.suffix == ".onnx" and "kdcompress.input" in graph.metadata(graph.load(path)):
        return artifact_of(path)
    return foreign_artifact(path)


def foreign_artifact(path: Path) -> Artifact:
    """The artefact in a file or folder that nothing but itself describes, for its latency: the normalisation is not
    known, nor what the classes are. Its first output is taken for the logits.

    Raises UsageError where it has not one input that can be an image, or says too little about itself.
    """
    kind = reader_of(path, OPENED, OPENED_FOLDERS)
    if kind is None:
        raise UsageError(
            f"This {'folder' if path.is_dir() else 'file'} does not say what its input is.",
            where=path,
            allowed=f"{', '.join(OPENED)}, a folder with {', '.join(OPENED_FOLDERS)}, or one with its record beside it",
            hint=f"put {path.name}.json, which `kdcompress run` wrote, beside it",
        )
    format, precision, inputs, outputs = kind(path)
    if len(inputs) != 1 or not outputs:
        raise UsageError(
            "The model must have one input and one output.",
            where=path,
            got=f"{len(inputs)} inputs ({', '.join(name for name, _, _ in inputs) or 'none'}), {len(outputs)} outputs",
        )
    return Artifact.of(path, format, precision, _image(path, *inputs[0], *outputs[0]))


Value = tuple[str, str, list[Any]]  # name, type as numpy calls it, dimensions: numbers, or something else where dynamic
Opened = tuple[str, str, list[Value], list[Value]]  # format, precision, inputs, outputs


def _image(path: Path, name: str, kind: str, shape: list[Any], output: str, _: str, shape_out: list[Any]) -> InputSpec:
    """The input as one of images: [N, C, H, W] or [N, H, W, C] with 1, 3 or 4 channels and a fixed size."""
    types = {"uint8": "uint8", "float32": "float", "float16": "half"}
    dims = [dim if isinstance(dim, int) and dim > 0 else None for dim in shape]
    order = None
    if len(dims) == 4:
        order = "nchw" if dims[1] in (1, 3, 4) else "nhwc" if dims[3] in (1, 3, 4) else None
    if order is None or kind not in types:
        raise UsageError(
            "The model's input is not an image.",
            where=path,
            got=f"{name}: {kind} {shape}",
            allowed=f"{', '.join(types)} [N, C, H, W] or [N, H, W, C] of 1, 3 or 4 channels",
        )
    batch, *rest = dims
    channels, height, width = rest if order == "nchw" else (rest[2], *rest[:2])
    if height is None or width is None or channels is None:
        raise UsageError(
            "The model takes images of any size, and a measurement needs one.",
            where=path,
            got=f"{name}: {kind} {shape}",
            hint="fix it in the file: python -m onnxruntime.tools.make_dynamic_shape_fixed",
        )
    classes = shape_out[-1] if len(shape_out) > 1 and isinstance(shape_out[-1], int) and shape_out[-1] > 0 else 1
    if height * width * channels * (batch or 1) > MOST_PIXELS or classes > MOST_CLASSES:
        raise UsageError(
            "The model's input or output is larger than that of any image classifier.",
            where=path,
            got=f"{name}: {kind} {shape}, {output}: {shape_out}",
            allowed=f"{MOST_PIXELS:,} values per query, {MOST_CLASSES:,} classes",
        )
    layout: Any = f"{types[kind]}-{order}"
    labels = tuple(map(str, range(classes)))
    outputs = (Output.logits(classes, output),)
    mean, std = (0.0,) * channels, (1.0,) * channels
    return InputSpec(height, width, channels, mean, std, labels, layout, batch, name, outputs)


def _open_onnx(path: Path) -> Opened:
    import onnx

    model = graph.load(path)
    constants = {initializer.name for initializer in model.graph.initializer}

    def values(listed: Any) -> list[Value]:
        found = []
        for value in listed:
            tensor = value.type.tensor_type
            name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
            found.append((value.name, "float32" if name == "float" else name, dims))
        return found

    inputs = [value for value in model.graph.input if value.name not in constants]
    return "onnx", next(iter(graph.stored(model)), "none"), values(inputs), values(model.graph.output)


def _open_ort(path: Path) -> Opened:
    from kdcompress.export.run_onnxruntime import open_session

    session = open_session(path)
    names = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}

    def values(listed: Any) -> list[Value]:
        return [(value.name, names.get(value.type, value.type), value.shape) for value in listed]

    return "ort", "unknown", values(session.get_inputs()), values(session.get_outputs())


def _open_pte(path: Path) -> Opened:
    from kdcompress.export import run_executorch

    run_executorch.check()
    with native_errors():
        try:
            meta = run_executorch.library().Runtime.get().load_program(path).load_method("forward").metadata
            inputs = [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
            outputs = [meta.output_tensor_meta(i) for i in range(meta.num_outputs())]
        except (RuntimeError, KeyError) as error:
            raise UsageError("ExecuTorch cannot load this file.", where=path, got=str(error)[:200]) from error
    kinds = {0: "uint8", 1: "int8", 5: "float16", 6: "float32"}

    def values(listed: Any) -> list[Value]:
        return [(str(i), kinds.get(m.dtype(), f"type {m.dtype()}"), list(m.sizes())) for i, m in enumerate(listed)]

    return "executorch", "unknown", values(inputs), values(outputs)


def _open_tflite(path: Path) -> Opened:
    from kdcompress.export import run_litert

    run_litert.check()
    interpreter = run_litert.open_interpreter(path)

    def values(listed: Any) -> list[Value]:
        return [(value["name"], value["dtype"].__name__, value["shape"].tolist()) for value in listed]

    outputs = [{**value, "name": name} for name, value in run_litert.outputs(interpreter)]
    return "litert", "unknown", values(interpreter.get_input_details()), values(outputs)


def _open_openvino(path: Path) -> Opened:
    from kdcompress.export import openvino_model

    openvino_model.check()
    try:
        model = openvino_model.library().Core().read_model(path / openvino_model.FILES[0])
    except RuntimeError as error:
        raise UsageError(
            "OpenVINO cannot load this folder.", where=path, got=str(error).splitlines()[0][:200]
        ) from error
    names = {"f32": "float32", "f16": "float16", "u8": "uint8"}

    def values(listed: Any) -> list[Value]:
        found = []
        for value in listed:
            kind = value.element_type.get_type_name()
            dims = [dim.get_length() if dim.is_static else str(dim) for dim in value.partial_shape]
            found.append((min(openvino_model.names_of(value)), names.get(kind, kind), dims))
        return found

    return "openvino", "unknown", values(model.inputs), values(model.outputs)


OPENED: dict[str, Callable[[Path], Opened]] = {
    ".onnx": _open_onnx,
    ".ort": _open_ort,
    ".pte": _open_pte,
    ".tflite": _open_tflite,
}
OPENED_FOLDERS: dict[str, Callable[[Path], Opened]] = {"model.xml": _open_openvino}
