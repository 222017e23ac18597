"""fp32 ONNX -> int8 OpenVINO: post-training quantisation by NNCF, by the target's scheme."""

from __future__ import annotations

import logging
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np

from kdcompress.artifact import CLASSES, Artifact
from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.behind import behind_layers
from kdcompress.export.formats import ExportJob, Scheme, Target, Writer, writers
from kdcompress.export.openvino_model import check as check_openvino
from kdcompress.export.openvino_model import convert, first_lines, write_model
from kdcompress.export.quiet import quiet
from kdcompress.optional import require, require_installed

EXTRA, WHY = "openvino", "An int8 OpenVINO model"
LAYERS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
NO_OPERATIONS = ("Constant", "Parameter", "Result")
# NNCF chooses these by itself, and always so.
ALWAYS = {
    "activation": ("uint8", "OpenVINO has signed activations only where a symmetric one can be negative"),
    "weight": ("int8", "OpenVINO's quantised weights are signed"),
    "quantize_bias": (False, "OpenVINO keeps biases in float"),
    "outputs": (True, "NNCF places what quantises by itself"),
    "op_types": ((), "NNCF quantises all it can; name nodes under exclude instead"),
}


def check() -> None:
    check_openvino()
    require_installed("nncf", EXTRA, WHY)


def _nncf() -> ModuleType:
    before = logging.getLoggerClass()
    try:
        return require("nncf", EXTRA, WHY)
    finally:
        logging.setLoggerClass(before)  # nncf puts its own in place for the whole process


def write(job: ExportJob, target: Target) -> Artifact:
    scheme = target.options.scheme
    assert scheme is not None  # a Target with precision int8 has one
    for key, (value, why) in ALWAYS.items():
        if key in scheme.model_fields_set:
            scheme.held_to(why, **{key: value})
    scheme.held_to("NNCF has no such calibration", calibration=["minmax", "percentile"])
    batches = list(job.batches(scheme))
    model = quantised(convert(job), scheme, batches)
    return write_model(
        model,
        job,
        target,
        versions={"nncf": version("nncf")},
        scheme=scheme.model_dump(mode="json"),
        calibration_images=sum(len(batch) for batch in batches),
    )


def quantised(model: Any, scheme: Scheme, batches: list[np.ndarray]) -> Any:
    """A quantised copy of an OpenVINO model, calibrated on ``batches`` of its input. Of one with several outputs, or
    with classes, what makes them of the last layers' stays in float.

    Raises UsageError for a name to exclude that the model does not have, KDCompressError where NNCF fails.
    """
    nncf = _nncf()
    preset = nncf.QuantizationPreset.PERFORMANCE if scheme.symmetric else nncf.QuantizationPreset.MIXED
    overflow = nncf.OverflowFix.ENABLE if scheme.reduce_range else nncf.OverflowFix.DISABLE
    parameters = require("nncf.quantization.advanced_parameters", EXTRA, WHY).QuantizationParameters
    excluded = _named(model, scheme.exclude)
    if len(model.outputs) > 1 or CLASSES in model.outputs[0].get_names():
        excluded = sorted({*excluded, *_tail(model)})
    try:
        with quiet():
            return nncf.quantize(
                model,
                nncf.Dataset(batches),
                preset=preset,
                subset_size=len(batches),
                fast_bias_correction=False,  # the fast one shifts the logits of residual nets
                ignored_scope=nncf.IgnoredScope(names=excluded) if excluded else None,
                # Its channel alignment stays off: NNCF 3.4's ends in a KeyError wherever it finds two layers to align.
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=overflow,
                    disable_bias_correction=not scheme.bias_correction,
                    activations_range_estimator_params=_range(scheme),
                    weights_quantization_params=parameters(per_channel=scheme.per_channel),
                ),
            )
    except Exception as error:  # nncf's exceptions and OpenVINO's share no base class
        raise KDCompressError("NNCF cannot quantise this model.", got=first_lines(error)) from error


def _tail(model: Any) -> list[str]:
    """The nodes behind the last layers, and those that make a detector's regions of its first."""
    found = behind_layers(
        model.get_ordered_ops(),
        lambda node: node.get_type_name() in LAYERS,
        lambda node: [value.get_node().get_friendly_name() for value in node.input_values()][: _read(node)],
        lambda node: [node.get_friendly_name()],
    )
    return [node.get_friendly_name() for node in found if node.get_type_name() not in NO_OPERATIONS]


def _read(node: Any) -> int | None:
    """How many of its inputs count: of what looks at regions of a map, the map."""
    return 1 if node.get_type_name() == "ROIAlign" else None


def _range(scheme: Scheme) -> Any:
    """How the range of an activation is estimated."""
    found = require("nncf.quantization.range_estimator", EXTRA, WHY)
    if scheme.calibration == "minmax":
        return found.RangeEstimatorParametersSet.MINMAX
    outside = 1 - scheme.percentile / 100
    quantile = found.StatisticsCollectorParameters(
        found.StatisticsType.QUANTILE, found.AggregatorType.MEAN, quantile_outlier_prob=outside
    )
    return found.RangeEstimatorParameters(min=quantile, max=quantile)


def _named(model: Any, wanted: tuple[str, ...]) -> list[str]:
    """The nodes that an ONNX node of one of these names became: a convolution named ``c`` is ``c/WithoutBiases`` and
    the addition ``c``; a module's path stands for all below it. Raises UsageError for a name that none has."""
    nodes = [node.get_friendly_name() for node in model.get_ops()]
    found = {
        name: [node for node in nodes if node == name or node.startswith((f"{name}/", f"{name}."))] for name in wanted
    }
    unknown = [name for name, became in found.items() if not became]
    if unknown:
        layers = ", ".join(sorted(node.removesuffix("/WithoutBiases") for node in nodes if "/WithoutBiases" in node))
        raise UsageError(
            "The model has no node of this name to exclude.",
            where="options.scheme.exclude",
            got=", ".join(unknown),
            allowed=f"layers: {layers}",
        )
    return sorted({node for became in found.values() for node in became})


def _nodes(job: ExportJob, scheme: Scheme) -> set[str]:
    """Those of the parent's that the model still has under their names."""
    return {node.get_friendly_name() for node in convert(job).get_ops()}


writers.register("openvino-int8")(Writer(write, check, ("openvino", "nncf"), nodes=_nodes))
