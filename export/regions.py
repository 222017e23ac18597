"""Which formats can say that a layer looks at regions of a map, as a detector's second stage does."""

from __future__ import annotations

from kdcompress.artifact import Artifact
from kdcompress.errors import UsageError
from kdcompress.export import graph

FORMATS = ("onnx", "openvino", "ort")  # that have an operator for it, and were tried


def takes(parent: Artifact, format: str) -> bool:
    """Whether a file of the format can be made of this one, as far as regions go."""
    if format in FORMATS or not parent.input.chosen:
        return True
    return all(node.op_type != graph.REGIONS for node in graph.load(parent.path).graph.node)


def check(parent: Artifact, format: str, target: str) -> None:
    """Raises UsageError where it cannot."""
    if not takes(parent, format):
        raise UsageError(
            f"The format {format} has no operator for regions of a map, which this detector's second stage looks at.",
            where=target,
            allowed=f"targets of the formats {', '.join(FORMATS)}",
            hint="a detector of one stage ships in this format: model: fcos/BACKBONE or retinanet/BACKBONE",
        )
