"""int8 by calibration on training images, and what of a graph really runs in int8."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdcompress.artifact import InputSpec, replacing
from kdcompress.errors import KDCompressError
from kdcompress.export import fragile, graph
from kdcompress.export.bias import correct_biases
from kdcompress.export.calibrate import write_ranges
from kdcompress.export.formats import ExportJob, Scheme
from kdcompress.export.quiet import quiet
from kdcompress.export.run_onnxruntime import open_session, session_options

CORRECTION_BATCHES = 4
PIXELS = {"rmin": np.float32(0), "rmax": np.float32(255)}
Platform = Literal["arm", "amd64"] | None
FAMILIES = {
    "conv": ("Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "QLinearConv", "ConvInteger", "ConvTranspose"),
    "gemm": ("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "QGemm", "QLinearMatMul", "MatMulInteger",
             "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
}  # fmt: skip
INT8 = ("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul")  # fmt: skip


def quantize(job: ExportJob, scheme: Scheme, path: Path, platform: Platform = None) -> dict[str, Any]:
    """Write an int8 QDQ copy of the job's parent to ``path``; returns its coverage on that platform.

    Raises KDCompressError where nothing of it runs in int8, UsageError for a name in the scheme that no node has.
    """
    with replacing(path) as temporary:
        write_int8(job, scheme, temporary, job.ranges)
        found = coverage(temporary, platform)
        if not any(found[family]["int8"] for family in FAMILIES):
            raise KDCompressError(
                "No convolution or matrix product of this model runs in int8.",
                where=path.name,
                got=", ".join(f"{count} {name}" for name, count in found["nodes"].items()),
                hint="the target's scheme does not suit this model or this CPU; fp32 and fp16 targets do not need one",
            )
    return found


def write_int8(job: ExportJob, scheme: Scheme, path: Path, ranges: Path | None = None) -> None:
    """Write an int8 QDQ copy of the job's parent to ``path``. ``ranges`` is a file that keeps what calibration found,
    for schemes that differ in nothing but what they leave in float.

    Raises KDCompressError where there is nothing to quantise, UsageError for a name in the scheme that no node has.
    """
    from onnxruntime import quantization

    types = {"uint8": quantization.QuantType.QUInt8, "int8": quantization.QuantType.QInt8}
    ours = scheme.calibration in ("mse", "entropy")
    methods = {"percentile": quantization.CalibrationMethod.Percentile}
    extra: dict[str, Any] = {"ActivationSymmetric": scheme.symmetric, "QuantizeBias": scheme.quantize_bias}
    if scheme.calibration == "percentile":
        extra["CalibPercentile"] = scheme.percentile
    if scheme.outputs is not True:
        extra["OpTypesToExcludeOutputQuantization"] = list(graph.PRODUCTS if scheme.outputs else graph.LAYERS)
    spec, ranged = job.parent.input, _ranged(scheme)
    parent = as_quantised(job, scheme)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        prepare(parent, prepared)
        layer = graph.first_layer(parent)
        if layer is None:
            raise KDCompressError("This model has no convolution or matrix product to quantise.", where=job.parent.path)
        stays_float = [node.name for node in graph.ancestors(parent, layer)]
        stays_float += [*graph.named_nodes(parent, scheme.exclude), *fragile.divisors(parent)]
        if spec.decodes:
            stays_float += [node.name for node in graph.tail(parent)]
        if ranged and layer.name == graph.NORMALISATION:
            extra["TensorQuantOverrides"] = {layer.input[0]: [PIXELS], layer.output[0]: [_pixel_range(spec)]}
        elif ranged:
            extra["TensorQuantOverrides"] = {layer.input[0]: [_pixel_range(spec)]}
        ranges = ranges or Path(folder, "ranges.json")
        batches = job.batches(scheme)
        reader = _Reader(spec.name, batches if scheme.calibration == "minmax" else _of_one_size(batches))
        with quiet():
            if ours and not ranges.exists():
                write_ranges(prepared, reader, scheme.calibration, Path(folder, "augmented.onnx"), ranges)
            quantization.quantize_static(
                str(prepared),
                str(path),
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(scheme.op_types) or None,
                nodes_to_exclude=stays_float,
                per_channel=scheme.per_channel,
                reduce_range=scheme.reduce_range,
                activation_type=types[scheme.activation],
                weight_type=types[scheme.weight],
                calibrate_method=methods.get(scheme.calibration, quantization.CalibrationMethod.MinMax),
                extra_options=extra,
                calibration_cache_path=ranges,
            )
        model = graph.load(path)
        graph.strip(model)
        graph.set_metadata(model, {**graph.metadata(parent), "kdcompress.precision": "int8"})
        _float_outputs(model)
        _keep_float(model, stays_float)
        if spec.layout == "uint8-nhwc" and scheme.activation == "uint8":
            _feed_pixels(model, spec, Path(folder, "front.onnx"))
        if scheme.bias_correction:
            correct_biases(graph.load(prepared), model, list(islice(job.batches(scheme), CORRECTION_BATCHES)), spec)
        graph.save(model, path)


def as_quantised(job: ExportJob, scheme: Scheme) -> Any:
    """The job's parent with an operator that has an int8 kernel in place of each that has none, where there is one."""
    parent, spec = graph.load(job.parent.path), job.parent.input
    graph.mean_to_pool(parent)
    convolved = scheme.per_channel and (not scheme.op_types or "Conv" in scheme.op_types)
    if _ranged(scheme) and _differ(spec) and convolved:
        graph.normalisation_to_conv(parent)
    return parent


def prepare(parent: Any, path: Path) -> None:
    """Write the graph as ONNX Runtime's quantiser takes it: optimised, with shapes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.onnx")
        graph.save(parent, source)
        with quiet():
            # Its symbolic inference does not take every graph, leaves files behind where it fails, and changes no file.
            quant_pre_process(str(source), str(path), skip_symbolic_shape=True)


def nodes(job: ExportJob, scheme: Scheme) -> set[str]:
    """The names that a scheme's ``exclude`` may have."""
    return {node.name for node in as_quantised(job, scheme).graph.node}


def _ranged(scheme: Scheme) -> bool:
    """Whether the range of the pixels can be given as it is."""
    return scheme.activation == "uint8" and not scheme.symmetric


def _differ(spec: InputSpec) -> bool:
    """Whether the channels' pixels are normalised each in its own way: else they can be taken as they are."""
    return len(set(zip(spec.mean, spec.std, strict=True))) > 1


def _pixel_range(spec: InputSpec) -> dict[str, np.floating]:
    """The range of the normalised input is known; calibration would only estimate it."""
    low = min(-mean / std for mean, std in zip(spec.mean, spec.std, strict=True))
    high = max((1 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True))
    return {"rmin": np.float32(low), "rmax": np.float32(high)}


def _of_one_size(batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Those as large as the first: ONNX Runtime makes one array of all, for a histogram."""
    first = next(batches)
    yield first
    yield from (batch for batch in batches if len(batch) == len(first))


class _Reader:
    """Calibration images in the form that the quantiser asks for."""

    def __init__(self, name: str, batches: Iterator[np.ndarray]):
        self.batches = ({name: batch} for batch in batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self.batches)


def _float_outputs(model: Any) -> None:
    """A last layer gives its sums out as they are, instead of rounded to 256 levels and back."""
    maker = {output: node for node in model.graph.node for output in node.output}
    for output in model.graph.output:
        back = maker.get(output.name)
        there = maker.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
        layer = maker.get(there.input[0]) if there is not None and there.op_type == "QuantizeLinear" else None
        if layer is not None and sum(layer.output[0] in node.input for node in model.graph.node) == 1:
            layer.output[0] = output.name
            model.graph.node.remove(there)
            model.graph.node.remove(back)
    graph.drop_unused(model)


def _keep_float(model: Any, names: list[str]) -> None:
    """ONNX Runtime quantises the weights of a float layer that stands between DequantizeLinear and QuantizeLinear, with
    one scale for all channels (its WeightBiasQuantization); a Clip without bounds before the layer holds it off."""
    import onnx

    restored = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in list(model.graph.node):
        if node.name in names and node.op_type in graph.LAYERS and node.input[0] in restored:
            held = onnx.helper.make_node("Clip", [node.input[0]], [f"{node.name}_input"], name=f"{node.name}_float")
            node.input[0] = held.output[0]
            model.graph.node.insert(list(model.graph.node).index(node), held)


def _feed_pixels(model: Any, spec: InputSpec, scratch: Path) -> None:
    """Let the pixels themselves be the first quantised tensor where normalising and quantising
    gives every one of the 256 values back, as it does with one mean and one standard deviation for
    all channels; a difference of 1 is the zero point's rounding. That is tried out, not assumed:
    other graphs stay as they are."""
    import onnx

    constants = {initializer.name for initializer in model.graph.initializer}
    first = next((n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants), None)
    if first is None:
        return
    front = [*graph.ancestors(model, first), first]
    inner = {node.output[0] for node in front[:-1]}
    if any(inner & set(node.input) for node in model.graph.node if node not in front):
        return
    part = onnx.helper.make_graph(
        front,
        "front",
        model.graph.input,
        [onnx.helper.make_tensor_value_info(first.output[0], onnx.TensorProto.UINT8, None)],
        [i for i in model.graph.initializer if any(i.name in node.input for node in front)],
    )
    onnx.save(onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version), scratch)
    count = spec.batch or -(-256 // (spec.height * spec.width))
    values = np.resize(np.arange(256, dtype=np.uint8), (count, spec.height, spec.width, 1))
    pixels = np.repeat(values, spec.channels, axis=3)
    unchanged = pixels.transpose(0, 3, 1, 2)
    quantised = open_session(scratch).run(None, {spec.name: pixels})[0].astype(int)
    alike = quantised.shape == unchanged.shape and np.abs(quantised - unchanged).max() <= 1
    if values.size < 256 or not alike:
        return
    for node in front:
        model.graph.node.remove(node)
    turn = onnx.helper.make_node("Transpose", [spec.name], [first.output[0]], name="pixels", perm=[0, 3, 1, 2])
    model.graph.node.insert(0, turn)
    graph.drop_unused(model)


def save_optimised(
    source: Path, path: Path, platform: Platform = None, save_as: str = "ONNX", layout: bool = True
) -> None:
    """Write the graph as ONNX Runtime runs it: on this machine, or on CPUs of a platform. ``layout`` is for those with
    vectors as wide as this one's: its convolutions then read channels in blocks of that width."""
    options = session_options()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", save_as)
    if platform is not None:  # else as this machine has it
        options.add_session_config_entry("session.qdqisint8allowed", str(int(platform == "arm")))
    open_session(source, options=options, without=() if layout and platform != "arm" else ("NchwcTransformer",))


def coverage(path: Path, platform: Platform = None, layout: bool = True) -> dict[str, Any]:
    """How many convolutions and matrix products run in int8, and how many in which float type,
    counted in the graph as ONNX Runtime has optimised it for this machine, or for the platform::

        {"conv": {"int8": 9, "fp16": 0, "fp32": 0}, "gemm": {...}, "leftover": 2, "nodes": {"QLinearConv": 9, ...},
         "weights": {"int8": 70000, "fp32": 12}}

    ``leftover`` counts the QuantizeLinear and DequantizeLinear nodes that fused with nothing. A CPU
    has no fp16 kernels for most operators: what is stored in fp16 then counts as fp32, and only
    ``weights``, those in the file by type, show it.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder, "optimised.onnx")
        save_optimised(path, optimised, platform, layout=layout)
        model = onnx.load(optimised)
    nodes = Counter(node.op_type for node in model.graph.node)
    found: dict[str, Any] = {}
    for family, kinds in FAMILIES.items():
        found[family] = {"int8": sum(nodes[kind] for kind in kinds if kind in INT8), "fp16": 0, "fp32": 0}
        for node in model.graph.node:
            if node.op_type in kinds and node.op_type not in INT8:
                found[family][graph.float_type(model, node)] += 1
    found["leftover"] = nodes["QuantizeLinear"] + nodes["DequantizeLinear"]
    found["nodes"] = dict(nodes.most_common())
    found["weights"] = graph.stored(graph.load(path))
    return found
