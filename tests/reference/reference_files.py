"""The files beside this one: of each reference network its weights and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kdcompress.artifact import write_text

HERE = Path(__file__).parent
PARENT = "the parent"  # the fp32 ONNX file, in place of a target
QUICK = (  # targets whose files are built in about a second
    *("onnx-fp16", "x86-vnni", "x86-avx2", "arm64-dotprod"),
    *("openvino-fp32", "openvino-fp16", "x86-openvino"),
    *("mnn-fp32", "android-mnn", "ncnn-fp32", "android-ncnn"),
)
SLOW = (
    *("android-xnnpack", "android-xnnpack-fp32", "android-litert", "litert-fp32"),
    *("ios-coreml", "ios-coreml-int8", "android-ort", "tensorrt-rtx", "tensorrt-rtx-int8"),
)
RECORDED = (PARENT, *QUICK, *SLOW)
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.yaml")))


def weights_path(name: str) -> Path:
    return HERE / f"{name}.safetensors"


def read(name: str) -> dict[str, Any]:
    """``made``: recipe, normalisation, labels and score of the network; ``images``: the hash of those that it is judged
    on; ``files``: of each target what its file was."""
    return yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))


def write(name: str, record: dict[str, Any]) -> None:
    write_text(HERE / f"{name}.yaml", yaml.safe_dump(record, sort_keys=False, width=120, default_flow_style=None))
