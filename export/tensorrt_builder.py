"""ONNX -> engine, for TensorRT and TensorRT-RTX alike: the module that is handed in is either."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdcompress.artifact import replacing
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import graph
from kdcompress.export.float16 import to_float16
from kdcompress.export.runtimes import require_gpu
from kdcompress.export.tensorrt_engine import as_built, hold_to, information, load_engine

if TYPE_CHECKING:
    from kdcompress.export.formats import ExportJob, Options, Target

FAMILIES = {"conv": ("CONVOLUTION", "DECONVOLUTION"), "gemm": ("MATRIX_MULTIPLY",)}


@dataclass
class Engine:
    """A serialised engine, and what the network it was built from computes in."""

    blob: bytes
    coverage: dict[str, dict[str, int]]  # {"conv": {"fp16": 9, "fp32": 0}, "gemm": ..., "outputs": {"fp16": 31, ...}}
    inputs: dict[str, str]
    log: list[str] = field(default_factory=list)  # warnings and errors of the build


def write_engine(
    trt: ModuleType, job: ExportJob, target: Target, path: Path, *, timing_cache: Path | None = None
) -> dict[str, Any]:
    """Build the target's engine from the job's parent into ``path``; returns its provenance."""
    options = target.options
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.onnx")
        graph.save(engine_source(job, target), source)
        dynamic = job.parent.input.batch is None
        engine = build_engine(trt, source, options, dynamic=dynamic, timing_cache=timing_cache)
    layers = sum((Counter(engine.coverage[family]) for family in FAMILIES), Counter())
    if set(+layers) != {target.precision} and not (target.precision == "int8" and layers["int8"]):
        raise KDCompressError(f"The layers of the engine's network are not {target.precision}.", got=engine.coverage)
    path.write_bytes(engine.blob)
    return {
        "coverage": engine.coverage,
        "inputs": engine.inputs,
        "versions": {trt.__name__: trt.__version__},
        "profile": list(options.profile) if dynamic else None,
        "compute_capabilities": list(options.compute_capabilities) or "of the GPU that built it",
        "warnings": engine.log,
        **portability(options),
        **_calibrated(job, options),
    }


def _calibrated(job: ExportJob, options: Options) -> dict[str, Any]:
    scheme = options.scheme
    if scheme is None:
        return {}
    return {
        "scheme": scheme.model_dump(mode="json"),
        "calibration_images": min(len(job.calibration), scheme.images),
    }


def portability(options: Options) -> dict[str, Any]:
    """Those of the options that decide what else the engine runs on and takes, where they are not the defaults."""
    names = ("version_compatible", "hardware_compatibility", "refit")
    return {name: getattr(options, name) for name in names if getattr(options, name) not in (False, "none")}


def inspected(trt: ModuleType, target: Target, path: Path) -> dict[str, Any]:
    """Provenance that only the GPU gives: which one it is, and the types of the layers as built, held to the target's
    precision. Raises KDCompressError where they are others."""
    gpu = require_gpu("an engine is inspected on its own GPU")
    compatible = target.options.version_compatible
    engine = load_engine(trt, path.read_bytes(), kept_log(trt), path, compatible)
    found = information(trt, engine)
    counts = as_built(found)
    hold_to(target.precision, counts)
    built = {"layers": len(found.get("Layers", [])), "types": counts, "refittable": bool(engine.refittable)}
    return {"gpu": gpu, "engine": {**built, "hardware_compatibility": engine.hardware_compatibility_level.name}}


def engine_source(job: ExportJob, target: Target) -> Any:
    """The ONNX model that the target's engine is built from: its types are those that the engine computes in. Of int8,
    what is not quantised is fp16."""
    from kdcompress.export.quantize import write_int8  # more than a device has, where a runner imports this module
    from kdcompress.export.suppression import append, finished

    path = job.parent.path
    with tempfile.TemporaryDirectory() as folder:
        if target.options.scheme is not None:
            path = Path(folder, "quantised.onnx")
            write_int8(job, target.options.scheme, path)
        model = graph.load(path)
    graph.cast_first(model)
    model = model if target.precision == "fp32" else to_float16(model)
    if target.options.nms == "graph":
        append(model, job.parent.input, finished(job.parent.input, f"{target.name}: options.nms"))
    return model


def build_engine(
    trt: ModuleType, onnx_file: Path, options: Options, *, dynamic: bool, timing_cache: Path | None = None
) -> Engine:
    """The engine of a strongly typed network: every layer computes in the type the ONNX file says.

    Raises UsageError for a file that is no ONNX model and KDCompressError, with every node that the
    parser rejects or with the builder's log, where there is no engine.
    """
    graph.load(onnx_file, full_check=True)  # TensorRT's parser takes an empty or a text file without complaint
    log = kept_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)) or not network.num_outputs:
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        nodes = [f"{e.node_name()} ({e.node_operator()}): {e.desc().strip().splitlines()[0]}" for e in errors]
        raise KDCompressError(
            f"{trt.__name__} cannot take this model.",
            where=onnx_file.name,
            got="; ".join(nodes) or "a network without outputs",
            hint="change these operators in the model, or leave this target out",
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if dynamic:
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            rest = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, *((batch, *rest) for batch in options.profile))
        if config.add_optimization_profile(profile) < 0:
            raise KDCompressError("TensorRT refuses the optimisation profile.", got=options.profile)
    _set_portability(trt, config, options)
    if options.compute_capabilities:
        _set_compute_capabilities(trt, config, options.compute_capabilities)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    coverage = _coverage(network)
    inputs = {network.get_input(i).name: network.get_input(i).dtype.name for i in range(network.num_inputs)}
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise KDCompressError(
            f"{trt.__name__} built no engine.",
            got=" | ".join(log.lines[:3]) or "nothing in its log",
            hint="`kdcompress doctor` shows what this machine can build",
        )
    if timing_cache is not None:
        with replacing(timing_cache) as temporary:
            temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    return Engine(bytes(blob), coverage, inputs, log.lines)


def _coverage(network: Any) -> dict[str, dict[str, int]]:
    """Layers and layer outputs of the network by type. Typing is strong: the engine keeps to it. A layer is int8 where
    all that it multiplies was int8 just before."""
    found: dict[str, Counter[str]] = {family: Counter(fp16=0, fp32=0) for family in (*FAMILIES, "outputs")}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    for layer in layers:
        for output in (layer.get_output(i) for i in range(layer.num_outputs)):
            if layer.type.name == "CONSTANT" or output.is_shape_tensor:
                continue
            kind = {"HALF": "fp16", "FLOAT": "fp32"}.get(output.dtype.name, output.dtype.name.lower())
            found["outputs"][kind] += 1
            for family in (f for f, kinds in FAMILIES.items() if layer.type.name in kinds):
                found[family]["int8" if _multiplies_int8(layer, makers) else kind] += 1
    return {family: dict(counts) for family, counts in found.items()}


def _multiplies_int8(layer: Any, makers: dict[str, Any]) -> bool:
    def dequantised(tensor: Any) -> bool:
        maker = makers.get(tensor.name) if tensor is not None else None
        if maker is not None and maker.type.name == "SHUFFLE":
            return dequantised(maker.get_input(0))
        return maker is not None and maker.type.name == "DEQUANTIZE" and maker.get_input(0).dtype.name == "INT8"

    return layer.num_inputs > 1 and all(dequantised(layer.get_input(i)) for i in (0, 1))


def _set_portability(trt: ModuleType, config: Any, options: Options) -> None:
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)  # REFIT_IDENTICAL is for the weights that it was built with
    if options.hardware_compatibility != "none":
        level = trt.HardwareCompatibilityLevel.__members__.get(options.hardware_compatibility.upper())
        if level is None:
            raise UsageError(
                f"TensorRT {trt.__version__} does not have this hardware compatibility.",
                got=options.hardware_compatibility,
                allowed=", ".join(name.lower() for name in trt.HardwareCompatibilityLevel.__members__),
            )
        config.hardware_compatibility_level = level


def _set_compute_capabilities(trt: ModuleType, config: Any, names: tuple[str, ...]) -> None:
    known = {name: kind for name, kind in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    config.num_compute_capabilities = len(names)
    for i, name in enumerate(names):
        kind = known.get("SM" + name.replace(".", ""))
        if kind is None:
            allowed = ", ".join(f"{sm[2:-1]}.{sm[-1]}" for sm in known)
            raise UsageError("TensorRT-RTX does not build for this compute capability.", got=name, allowed=allowed)
        config.set_compute_capability(kind, i)


def kept_log(trt: ModuleType) -> Any:
    """A logger that keeps warnings and errors in ``lines`` instead of printing them."""

    class Kept(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.lines.append(" ".join(message.split())[:300])

    return Kept()
