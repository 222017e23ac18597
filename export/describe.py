"""What is in a model file: for `kdcompress inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kdcompress.artifact import Artifact, InputSpec, sha256, size_of
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export import graph
from kdcompress.export.apart import apart
from kdcompress.export.describe_weights import pt, safetensors
from kdcompress.export.formats import require_gpu
from kdcompress.export.quiet import native_errors, quiet
from kdcompress.optional import is_installed, require
from kdcompress.untrusted import existing, parse_json, read_json

Read = TypeVar("Read")


def describe(path: Path) -> dict[str, Any]:
    """Facts about a model file or folder, a file of weights, or the record beside an artefact.

    Raises UsageError for any other file and for one that is damaged, RuntimeMissingError where the package that reads
    it is not installed.
    """
    existing(path)
    if reader_of(path, KINDS, FOLDERS) is None:
        allowed = "one with " + ", or with ".join(FOLDERS) if path.is_dir() else ", ".join(KINDS)
        raise UsageError(f"This kind of {_what(path)} cannot be inspected.", where=path, allowed=allowed)
    read = contents if path.suffix in PLAIN or _is_recorded(path) else partial(apart, contents)
    return {"file": path.name, "bytes": size_of(path), "sha256": sha256(path), **read(path)}


def contents(path: Path) -> dict[str, Any]:
    """What is in a file or folder that exists and is of a kind that is known."""
    read = reader_of(path, KINDS, FOLDERS)
    assert read is not None
    return read(path)


def recorded(path: Path) -> Artifact | None:
    """The artefact that the record beside a file or folder is of, where there is a record.

    Raises UsageError where that is no record, and where the file is not the one recorded.
    """
    record = path.with_name(path.name + ".json")
    if not record.is_file():
        return None
    what = "This is not the record of an artefact."
    try:
        artifact = Artifact.from_json(read_json(record, what), path.parent)
    except UsageError as error:
        raise error.at(record) from error
    return replace(artifact, path=path).verified()


def _is_recorded(path: Path) -> bool:
    try:
        return recorded(path) is not None
    except UsageError:
        return False


def reader_of(path: Path, files: Mapping[str, Read], folders: Mapping[str, Read]) -> Read | None:
    """What reads this file, by its suffix, or this folder, by a file that is in it."""
    if path.is_dir():
        return next((read for name, read in folders.items() if (path / name).is_file()), None)
    return files.get(path.suffix)


def _what(path: Path) -> str:
    return "folder" if path.is_dir() else "file"


def artifact_of(path: Path) -> Artifact:
    """The artefact in an ONNX file that kdcompress wrote, from the file alone."""
    facts = graph.metadata(graph.load(path))
    if "kdcompress.input" not in facts:
        raise UsageError(
            "The ONNX file does not say what its input is.",
            where=path,
            hint="only files written by kdcompress carry that; `kdcompress inspect` shows the rest",
        )
    try:
        spec = InputSpec.from_json(parse_json(facts["kdcompress.input"]))
    except ValueError as error:
        raise UsageError("The file's metadata is damaged.", where=path, got=f"kdcompress.input: {error}") from error
    except UsageError as error:
        raise error.at(path) from error
    return Artifact.of(path, "onnx", facts.get("kdcompress.precision", "unknown"), spec)


def _onnx(path: Path) -> dict[str, Any]:
    import onnx

    model = graph.load(path, full_check=True)
    weights = graph.stored(model)
    external = sorted(
        {
            entry.value
            for initializer in onnx.load(path, load_external_data=False).graph.initializer
            for entry in initializer.external_data
            if entry.key == "location"
        }
    )
    constants = {initializer.name for initializer in model.graph.initializer}
    return {
        "format": "onnx",
        "precision": next(iter(weights), "none"),  # that most are stored in
        "inputs": {value.name: _tensor(value) for value in model.graph.input if value.name not in constants},
        "outputs": {value.name: _tensor(value) for value in model.graph.output},
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "ir_version": model.ir_version,
        "producer": " ".join((model.producer_name, model.producer_version)).strip(),
        "parameters": sum(weights.values()),
        "weights": weights,
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "external_data": external,
        "metadata": graph.metadata(model),
    }


def _tensor(value: Any) -> str:
    import onnx

    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {shape}".replace("'", "")


def _engine(path: Path) -> dict[str, Any]:
    """The header of a TensorRT-RTX engine, as observed in version 1.7; the layout is not documented."""
    header = path.open("rb").read(64)
    if len(header) < 64:
        raise UsageError("The file is too short to be an engine.", where=path, got=f"{len(header)} bytes")
    if header[:4] != b"vtrt":
        known = header[1:4] == b"trt"
        named = {"format": "tensorrt" if known else "unknown", "magic": header[:4].hex()}
        return named | (_layers("tensorrt", path) if known else {})
    size = int.from_bytes(header[16:24], "little")
    version = ".".join(map(str, header[24:28]))
    facts: dict[str, Any] = {"format": "tensorrt-rtx", "version": version, "bytes_in_header": size}
    if size != path.stat().st_size:
        raise UsageError("The engine is cut off or damaged.", where=path, got=path.stat().st_size, allowed=size)
    if is_installed("tensorrt_rtx"):
        facts["runs_here"] = _validity(path)
        facts |= _layers("tensorrt-rtx", path)
    return facts


def _layers(extra: str, path: Path) -> dict[str, Any]:
    """What the engine inspector says, where the engine loads here."""
    from kdcompress.export import tensorrt_engine
    from kdcompress.export.tensorrt_builder import kept_log

    try:
        require_gpu("an engine is inspected on its own GPU")
        trt = require(extra.replace("-", "_"), extra, "Reading an engine")
        engine = tensorrt_engine.load_engine(trt, path.read_bytes(), kept_log(trt), path, version_compatible=True)
    except (RuntimeMissingError, UsageError) as error:
        return {"layers": f"not read: {error.what}"}
    found = tensorrt_engine.information(trt, engine)
    return {"types": tensorrt_engine.as_built(found), "refittable": bool(engine.refittable), "layers": found["Layers"]}


def _validity(path: Path) -> str:
    try:
        require_gpu("validity is judged for the GPU at hand")
    except RuntimeMissingError as error:
        return error.what
    trt = require("tensorrt_rtx", "tensorrt-rtx", "Reading an engine")
    validity, reasons = trt.Runtime(trt.Logger(trt.Logger.ERROR)).get_engine_validity(path.read_bytes())
    return f"{validity.name}, {reasons}"


def _damaged(read: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """Of a file that its library cannot read there is a UsageError: their own exceptions share no base class."""

    def reading(path: Path) -> dict[str, Any]:
        try:
            return read(path)
        except (UsageError, RuntimeMissingError):
            raise
        except Exception as error:
            said = error.what if isinstance(error, KDCompressError) else f"{type(error).__name__}: {error}"
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            raise UsageError(
                f"The {_what(path)} is damaged, or not what its name says.",
                where=path,
                got=" | ".join(lines[:2])[:300],
                hint="export it again",
            ) from error

    return reading


def _magic(path: Path, expected: bytes) -> bytes:
    """The content of a flatbuffer file with that identifier."""
    content = path.read_bytes()
    if content[4:8] != expected:
        raise UsageError(
            "The file is damaged, or not what its name says.",
            where=path,
            got=repr(content[4:8]),
            allowed=f"{expected!r} at byte 4",
        )
    return content


@_damaged
def _ort(path: Path) -> dict[str, Any]:
    from kdcompress.export.run_onnxruntime import open_session
    from kdcompress.export.to_ort import operators

    _magic(path, b"ORTM")
    session = open_session(path)
    metadata = session.get_modelmeta().custom_metadata_map
    return {
        "format": "ort",
        "precision": metadata.get("kdcompress.precision", "unknown"),
        "inputs": {value.name: f"{value.type} {value.shape}".replace("'", "") for value in session.get_inputs()},
        "outputs": {value.name: f"{value.type} {value.shape}".replace("'", "") for value in session.get_outputs()},
        "operators": operators(path),
        "metadata": metadata,
    }


@_damaged
def _openvino(path: Path) -> dict[str, Any]:
    """Coverage is that of the model as OpenVINO compiles it for this CPU."""
    from kdcompress.export import openvino_model

    openvino_model.check()
    found = openvino_model.coverage(path)
    model = openvino_model.library().Core().read_model(path / openvino_model.FILES[0])
    return {
        "format": "openvino",
        "precision": max(found["weights"], key=found["weights"].get, default="none"),
        "inputs": {value.any_name: _openvino_tensor(value) for value in model.inputs},
        "outputs": {value.any_name: _openvino_tensor(value) for value in model.outputs},
        "coverage": found,
    }


def _openvino_tensor(value: Any) -> str:
    return f"{value.element_type.get_type_name()} {value.partial_shape}"


@_damaged
def _pte(path: Path) -> dict[str, Any]:
    """What is inside a delegate is not readable: the record beside the file has the coverage."""
    from kdcompress.export import run_executorch

    run_executorch.check()
    content = _magic(path, b"ET12")
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        plans = deserialize_pte_binary(content).program.execution_plan
    with native_errors():
        program = run_executorch.library().Runtime.get().load_program(path)
        loaded = {plan.name: program.load_method(plan.name).metadata for plan in plans}
    return {
        "format": "executorch",
        "methods": {
            plan.name: {
                "inputs": [_torch_tensor(loaded[plan.name].input_tensor_meta(i)) for i in range(len(plan.inputs))],
                "outputs": [_torch_tensor(loaded[plan.name].output_tensor_meta(i)) for i in range(len(plan.outputs))],
                "delegates": dict(Counter(delegate.id for delegate in plan.delegates)),
                "outside": [".".join(filter(None, (o.name, o.overload))) for o in plan.operators],
            }
            for plan in plans
        },
    }


def _torch_tensor(tensor: Any) -> str:
    kind = {0: "uint8", 1: "int8", 5: "half", 6: "float"}.get(tensor.dtype(), f"type {tensor.dtype()}")
    return f"{kind} {list(tensor.sizes())}"


@_damaged
def _tflite(path: Path) -> dict[str, Any]:
    import zipfile

    from kdcompress.export.litert_file import coverage

    found = coverage(_magic(path, b"TFL3"))
    layers = Counter({name: found["conv"][name] + found["gemm"][name] for name in ("int8", "fp16", "fp32")})
    facts: dict[str, Any] = {"format": "litert", "precision": layers.most_common(1)[0][0], "coverage": found}
    if zipfile.is_zipfile(path):  # where TensorFlow Lite keeps associated files
        with zipfile.ZipFile(path) as archive:
            facts["files"] = archive.namelist()
            if "kdcompress.json" in facts["files"]:
                facts["metadata"] = parse_json(archive.read("kdcompress.json"))
    return facts


@_damaged
def _mnn(path: Path) -> dict[str, Any]:
    from kdcompress.export import to_mnn

    to_mnn.check()
    found, identity = to_mnn.inspect(path)
    return {"format": "mnn", "coverage": found, "uuid": identity}


@_damaged
def _ncnn(path: Path) -> dict[str, Any]:
    from kdcompress.export.run_ncnn import PARAM
    from kdcompress.export.to_ncnn import coverage

    found = coverage(path)
    magic, counts, *layers = (path / PARAM).read_text(encoding="utf-8").splitlines() or [""]
    if magic.strip() != "7767517" or int(counts.split()[0]) != len(layers):
        raise UsageError("The folder's .param file is damaged.", where=path, got=f"{magic!r:.40}, {len(layers)} layers")
    return {"format": "ncnn", "coverage": found}


@_damaged
def _mlpackage(path: Path) -> dict[str, Any]:
    from kdcompress.export import to_coreml

    to_coreml.check()
    with quiet():
        ct = require("coremltools", "coreml", "Reading a Core ML model")
        described = ct.utils.load_spec(str(path)).description
        found = to_coreml.coverage(path)
    return {
        "format": "coreml",
        "inputs": {value.name: value.type.WhichOneof("Type") for value in described.input},
        "outputs": {value.name: value.type.WhichOneof("Type") for value in described.output},
        "coverage": found,
        "metadata": dict(described.metadata.userDefined),
    }


@_damaged
def _record(path: Path) -> dict[str, Any]:
    """The record that `kdcompress run` writes beside an artefact, and whether the artefact is still that one."""
    what, hint = "This is not the record of an artefact.", "give the model file itself"
    record = read_json(path, what, hint)
    try:
        artifact = Artifact.from_json(record, path.parent)
    except UsageError as error:
        raise error.at(path) from error
    try:
        if artifact.path.exists():
            existing(artifact.path)
        artifact.verified()
        state = "as recorded"
    except UsageError as error:
        state = error.what
    return {"format": "record", "artefact": {**record, "state": state}}


PICKLED = (".pt", ".pth", ".ckpt", ".bin")  # PyTorch's

KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".onnx": _onnx,
    ".engine": _engine,
    ".plan": _engine,
    ".safetensors": safetensors,
    **dict.fromkeys(PICKLED, pt),
    ".ort": _ort,
    ".pte": _pte,
    ".tflite": _tflite,
    ".mnn": _mnn,
    ".json": _record,
}
PLAIN = (".json", ".safetensors", *PICKLED, ".engine", ".plan")  # read by nothing that a damaged file crashes
FOLDERS = {"model.xml": _openvino, "model.ncnn.param": _ncnn, "Manifest.json": _mlpackage}  # by a file in them
