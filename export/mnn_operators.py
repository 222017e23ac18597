"""What an MNN file says of its operators: which of the parent's values they give, what they multiply."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcompress.export.to_mnn import CONVOLUTIONS, FROM_MATMUL

PART = re.compile(r"_raster_\d+$")  # an operator that MNN made of one in the file has its name and this
PRODUCTS = ("MatMul", "BatchMatMul")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """An operator of the file. ``tensor``: the name of what it gives, which is the ONNX file's."""

    kind: str
    tensor: str
    main: Mapping[str, Any]

    @property
    def activation(self) -> str:
        """What is done in the same operator after the sums."""
        common = self.main.get("common") or {}
        return next((name for name, key in (("Relu6", "relu6"), ("Relu", "relu")) if common.get(key)), "")

    def macs(self, inputs: Sequence[Shape], output: Shape) -> int | None:
        """Multiply-accumulates, of a convolution or a matrix product."""
        if self.kind in CONVOLUTIONS:
            common = self.main["common"]
            kernel = common["kernelX"] * common["kernelY"]
            turned = self.kind.startswith("Deconvolution")
            source, sums = (inputs[0], output[1]) if turned else (output, inputs[0][1])
            return math.prod(source) * sums * kernel // _groups(self.kind, common)
        if self.kind in PRODUCTS and len(inputs) > 1:
            columns = self.main.get("transposeA") or self.main.get("adjX")
            return math.prod(output) * inputs[0][-2 if columns else -1]
        return None


def _groups(kind: str, common: Mapping[str, Any]) -> int:
    return int(common["outputCount"] if kind.endswith("Depthwise") else common["group"])


def operators(contents: Mapping[str, Any]) -> dict[str, Operator]:
    """By their names."""
    names = contents["tensorName"]
    return {
        each["name"]: Operator(
            each["type"], names[each["outputIndexes"][0]].removesuffix(FROM_MATMUL), each.get("main") or {}
        )
        for each in contents["oplists"]
        if each.get("outputIndexes")
    }


def owner(name: str, known: Mapping[str, Operator]) -> str:
    """The file's operator that one which runs was made of; "" where it is none of the file's."""
    return next((each for each in (name, PART.sub("", name)) if each in known), "")
