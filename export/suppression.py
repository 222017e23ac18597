"""Suppression (NMS) as nodes of an ONNX file, behind the boxes and scores of a detector.

What comes out has a fixed size, so that any batch runs and files are read as others are: the best of each image, by
descending score, and zeros where there are fewer. Unlike ``boxes.suppressed`` it looks at all candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcompress.artifact import Artifact, InputSpec, replacing, sha256, size_of
from kdcompress.boxes import suppressed
from kdcompress.errors import UsageError
from kdcompress.export import graph
from kdcompress.tasks import tasks

PREFIX = "suppression"  # of the nodes' names
WITHOUT = {  # formats that have no operator for it, and why
    "tensorrt-rtx": "TensorRT-RTX parses NonMaxSuppression and builds no engine with it",
    "litert": "LiteRT's converter has no such operator",
    "executorch": "ExecuTorch takes no operator whose output has no largest size",
    "ncnn": "ncnn has no such layer",
    "mnn": "it is not tried in MNN",
    "coreml": "Core ML has it only in a pipeline of models",
    "ort": "it is not tried in .ort files",
}


def finished(spec: InputSpec, where: str) -> InputSpec:
    """What a file gives that suppresses by itself. Raises UsageError where its task suppresses nothing."""
    outputs = tasks[spec.task].finished(spec.outputs)
    if outputs is None:
        got, hint = f"a network for {tasks[spec.task].purpose}", "leave `nms` out"
        raise UsageError("Only a detector's file can suppress by itself.", where=where, got=got, hint=hint)
    return replace(spec, outputs=outputs)


@contextmanager
def inside(parent: Artifact, folder: Path, where: str) -> Iterator[Artifact]:
    """An ONNX artefact in ``folder`` that is like ``parent`` and suppresses by itself, for as long as the block
    lasts."""
    spec = finished(parent.input, where)
    path = folder / f".{PREFIX}-{parent.path.name}"
    model = graph.load(parent.path)
    append(model, parent.input, spec)
    graph.set_metadata(model, {"kdcompress.input": json.dumps(spec.to_json())})
    try:
        graph.save(model, path)
        yield Artifact.of(path, "onnx", parent.precision, spec)
    finally:
        path.unlink(missing_ok=True)


def appended(artifact: Artifact, where: str) -> Artifact:
    """An ONNX artefact, once its file suppresses by itself."""
    spec, model = finished(artifact.input, where), graph.load(artifact.path)
    append(model, artifact.input, spec)
    graph.set_metadata(model, {"kdcompress.input": json.dumps(spec.to_json())})
    with replacing(artifact.path) as temporary:
        graph.save(model, temporary)
    return replace(artifact, input=spec, sha256=sha256(artifact.path), bytes=size_of(artifact.path))


def append(model: Any, dense: InputSpec, spec: InputSpec) -> None:
    """Behind the outputs that ``dense`` names, boxes [N, P, 4] and scores [N, P, K], nodes for those of ``spec``: boxes
    [N, D, 4], scores [N, D] and labels [N, D], all float32."""
    from onnx import TensorProto, helper, numpy_helper

    boxes, scores = (output.name for output in dense.outputs)
    places, labels = dense.outputs[1].shape
    options = suppressed.__kwdefaults__ or {}
    most = spec.outputs[1].shape[0]
    renamed = {name: f"{PREFIX}/dense_{name}" for name in (boxes, scores)}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    constants: dict[str, Any] = {
        "most": np.array([most], np.int64),
        "iou": np.array([options["iou"]], np.float32),
        "least": np.array([options["score"]], np.float32),
        "row": np.array([0, labels * places], np.int64),
        "kinds": np.array(labels, np.int64),
        "last": np.array([-1], np.int64),
        "four": np.array([1, 1, 4], np.int64),
        "zero": np.array(0, np.float32),
    }
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Transpose", [renamed[scores]], ["by_label"], {"perm": [0, 2, 1]}),
        ("NonMaxSuppression", [renamed[boxes], "by_label", "most", "iou", "least"], ["kept"], {}),
        ("Shape", ["by_label"], ["shape"], {}),
        ("ConstantOfShape", ["shape"], ["none"], {"value": helper.make_tensor("value", TensorProto.FLOAT, [1], [0])}),
        ("GatherND", ["by_label", "kept"], ["values"], {}),
        ("ScatterND", ["none", "kept", "values"], ["all"], {}),
        ("Transpose", ["all"], ["by_place"], {"perm": [0, 2, 1]}),  # equal scores go by place, then label
        ("Reshape", ["by_place", "row"], ["rows"], {}),
        ("TopK", ["rows", "most"], [spec.outputs[1].name, "index"], {"axis": 1}),
        ("Div", ["index", "kinds"], ["place"], {}),
        ("Mod", ["index", "kinds"], ["label"], {}),
        ("Greater", [spec.outputs[1].name, "zero"], ["there"], {}),
        ("Cast", ["there"], ["share"], {"to": TensorProto.FLOAT}),
        ("Cast", ["label"], ["number"], {"to": TensorProto.FLOAT}),
        ("Mul", ["number", "share"], [spec.outputs[2].name], {}),
        ("Unsqueeze", ["place", "last"], ["column"], {}),
        ("Expand", ["column", "four"], ["columns"], {}),
        ("GatherElements", [renamed[boxes], "columns"], ["chosen"], {"axis": 1}),
        ("Unsqueeze", ["share", "last"], ["shares"], {}),
        ("Mul", ["chosen", "shares"], [spec.outputs[0].name], {}),
    ]
    outside = {*renamed.values(), *(output.name for output in spec.outputs)}

    def inner(name: str) -> str:
        return name if name in outside else f"{PREFIX}/{name}"

    for kind, given, made, attributes in nodes:
        names = [inner(name) for name in given], [inner(name) for name in made]
        node = helper.make_node(kind, *names, name=inner(f"{kind}_{made[0]}"), **attributes)
        model.graph.node.append(node)
    tensors = [numpy_helper.from_array(value, inner(name)) for name, value in constants.items()]
    model.graph.initializer.extend(tensors)
    batch = next(iter(model.graph.output)).type.tensor_type.shape.dim[0]
    size = batch.dim_param or batch.dim_value
    del model.graph.output[:]
    made = [helper.make_tensor_value_info(o.name, TensorProto.FLOAT, [size, *o.shape]) for o in spec.outputs]
    model.graph.output.extend(made)
