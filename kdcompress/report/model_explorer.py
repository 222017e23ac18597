"""A file's layers as custom node data of Google's Model Explorer: files that colour the nodes of its ONNX graph."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kdcompress.artifact import write_text
from kdcompress.errors import UsageError
from kdcompress.report.layers import writable

LIGHT, DARK = "#eef4fb", "#1763c6"
COLOURS = {"int8": "#1b8a68", "fp32": "#1763c6", "fp16": "#8a4fb8", "bf16": "#b0357a"}
EXACT_DB = 150.0  # as which values are drawn that are the parent's


def node_data_path(path: Path | None) -> Path | None:
    """Raises UsageError for a path that no node data can be written to."""
    if path is not None and path.suffix != ".json":
        raise UsageError("Node data are a .json file.", where="--model-explorer", got=path, allowed="NAME.json")
    return writable(path, "--model-explorer")


def write_node_data(document: Mapping[str, Any], path: Path) -> list[Path]:
    """NAME-time.json, NAME-precision.json and, where errors are known, NAME-error.json of the first file, for a
    ``path`` NAME.json: Model Explorer shows one figure a file."""
    found = node_data(document["files"][0])
    texts = {path.with_name(f"{path.stem}-{name}.json"): json.dumps(data, indent=1) for name, data in found.items()}
    return [write_text(each, text + "\n") for each, text in texts.items()]


def node_data(file: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The data by figure. A layer that was made of several nodes has its time at the one that multiplies, or else at
    the first, so that sums of groups are right; its precision and error are at all of them. Nodes of the file that
    were made of none are under their own name."""
    times: dict[str, Any] = {}
    precisions: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for layer in file["layers"]:
        nodes: Collection[str] = layer["made_of"] or [layer["name"]]
        times[layer["of"] or layer["name"]] = {"value": layer["median_ms"]}
        for node in nodes:
            if layer["precision"]:
                colour = COLOURS.get(layer["precision"])
                precisions[node] = {"value": layer["precision"], **({"bgColor": colour} if colour else {})}
                precisions[node] |= {"textColor": "#ffffff"} if colour else {}
            if layer["snr_db"] is not None:
                errors[node] = {"value": EXACT_DB if math.isinf(layer["snr_db"]) else round(layer["snr_db"], 2)}
    figures: dict[str, dict[str, Any]] = {
        "time": {"name": "ms", "results": times, "gradient": _gradient(LIGHT, DARK)},
        "precision": {"name": "precision", "results": precisions},
        "error": {"name": "SNR dB", "results": errors, "gradient": _gradient("#c4561b", "#f6f7f9")},
    }
    graph = file["graph"] or "main_graph"
    return {name: {graph: data} for name, data in figures.items() if data["results"]}


def _gradient(first: str, last: str) -> list[dict[str, Any]]:
    """Colours of the least and the largest value."""
    return [{"stop": 0, "bgColor": first}, {"stop": 1, "bgColor": last}]
