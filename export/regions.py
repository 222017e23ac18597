"""Which formats can say that a layer looks at regions of a map, as a detector's second stage does."""

from __future__ import annotations

from kdcompress.artifact import Artifact
from kdcompress.errors import UsageError
from kdcompress.export import graph

NO_OPERATOR = "it has no operator for that"
WITHOUT = {  # as their converters and runtimes were when each was tried
    "coreml": NO_OPERATOR,
    "executorch": NO_OPERATOR,
    "litert": NO_OPERATOR,
    "ncnn": "it has no operator for that, and none that chooses the best",
    "mnn": "its numbers differ by 0.0004 of the largest, more than those of fp32 may",
    "tensorrt-rtx": "its operator for that is a plugin which it does not bring along",
}
INSTEAD = "targets of the formats onnx, ort and openvino"


def takes(parent: Artifact, format: str) -> bool:
    """Whether a file of the format can be made of this one, as far as regions go."""
    if format not in WITHOUT or not parent.input.chosen:
        return True
    return all(node.op_type != graph.REGIONS for node in graph.load(parent.path).graph.node)


def check(parent: Artifact, format: str, target: str) -> None:
    """Raises UsageError where it cannot."""
    if not takes(parent, format):
        raise UsageError(
            f"The format {format} cannot look at regions of a map, as this detector's second stage does: "
            f"{WITHOUT[format]}.",
            where=target,
            allowed=INSTEAD,
            hint="one stage ships in this format: model: fcos/BACKBONE or retinanet/BACKBONE, or yolact/BACKBONE",
        )
