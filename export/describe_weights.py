"""What is in a file of weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdcompress.errors import UsageError


def safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UsageError("The file is not valid safetensors.", where=path, got=error) from error
    return {"format": "safetensors", **_listing(tensors), "metadata": metadata}


def pt(path: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own
        raise UsageError(
            "The file cannot be read as weights alone.",
            where=path,
            got=str(error).strip().splitlines()[0][:200],
            hint="save model.state_dict(), or use safetensors",
        ) from error
    return {"format": "pt", **_listing(_tensors(found))}


def _tensors(value: Any, prefix: str = "") -> dict[str, tuple[str, list[int]]]:
    if hasattr(value, "shape"):
        return {prefix or "tensor": (str(value.dtype).removeprefix("torch."), list(value.shape))}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found: dict[str, tuple[str, list[int]]] = {}
    for key, part in items:
        found |= _tensors(part, f"{prefix}.{key}" if prefix else str(key))
    return found


def _listing(tensors: dict[str, tuple[str, list[int]]]) -> dict[str, Any]:
    return {
        "parameters": sum(math.prod(shape) for _, shape in tensors.values()),
        "tensors": {name: f"{dtype.lower()} {list(shape)}" for name, (dtype, shape) in tensors.items()},
    }
