"""Weights that an ONNX file keeps in another file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdcompress.errors import UsageError
from kdcompress.optional import is_installed

HINT = "copy both files together, or make them one: onnx.save(onnx.load('model.onnx'), 'whole.onnx')"


def problem(path: Path) -> UsageError | None:
    """What is wrong with the files of weights that the ONNX file at ``path`` names; None where they are whole, where it
    names none, and where it cannot be read."""
    if not is_installed("onnx"):  # on a device
        return None
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # it is no ONNX file: another error says so
        return None
    named: dict[str, list[Any]] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            facts = {entry.key: entry.value for entry in tensor.external_data}
            named.setdefault(facts.get("location", ""), []).append((tensor, facts))
    for location, tensors in named.items():
        file, holds = path.parent / location, f"{location!r}, which has {len(tensors)} of its tensors"
        if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(path.parent.resolve()):
            what, allowed = "The ONNX file takes its weights from outside its folder.", "a file in the same folder"
            return UsageError(what, where=path, got=holds, allowed=allowed, hint=HINT)
        if not file.is_file():
            return UsageError("A file with the ONNX file's weights is missing.", where=path, got=holds, hint=HINT)
        there, needed = file.stat().st_size, max(_end(tensor, facts) for tensor, facts in tensors)
        if there < needed:
            what, got = "A file with the ONNX file's weights is cut off.", f"{there:,} bytes of {location!r}"
            return UsageError(what, where=path, got=got, allowed=f"{needed:,} bytes or more", hint=HINT)
    return None


def check_whole(path: Path) -> None:
    """Raises UsageError for an ONNX file that keeps weights in another file: its hash would not be of all it is."""
    import onnx

    tensors = _tensors(onnx.load(path, load_external_data=False).graph) if path.suffix == ".onnx" else ()
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise UsageError("The ONNX file keeps its weights in another file.", where=path, hint=HINT)


def _end(tensor: Any, facts: dict[str, str]) -> int:
    """Where a tensor's values end in its file."""
    import onnx

    offset, length = (int(text) if (text := facts.get(key, "")).isdecimal() else 0 for key in ("offset", "length"))
    size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return offset + (length or math.prod(tensor.dims) * size)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t, *attribute.tensors]
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node or inner.initializer:
                    yield from _tensors(inner)
