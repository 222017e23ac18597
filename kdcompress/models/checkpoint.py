"""Weights on disk: safetensors written whole or not at all, and read with every mismatch in one error."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kdcompress.artifact import replacing
from kdcompress.errors import UsageError

SHOWN = 5


def save_weights(
    module_or_state_dict: nn.Module | Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a state dict as safetensors, with text ``metadata``; the folder must be there.

    The file appears whole, under its name, or not at all. Tensors that share memory are written once each.
    Raises UsageError for an entry that is no tensor.
    """
    state = module_or_state_dict
    if isinstance(state, nn.Module):
        state = state.state_dict()
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise UsageError("Only tensors can be saved as weights.", where=key, got=type(value).__name__)
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)

    with replacing(Path(path)) as temporary:
        temporary.write_bytes(_canonical(safetensors.torch.save(tensors, dict(metadata or {}))))


def _canonical(data: bytes) -> bytes:
    """The same file with its metadata in order: the library writes them in an order of its own each time, and equal
    weights shall be equal files."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_weights(module: nn.Module, path: Path) -> dict[str, str]:
    """Loads weights into ``module``, all or none, and returns the file's metadata.

    Takes .safetensors, and .pt or .pth with tensors alone: a state dict, bare or below "model" or "state_dict". A
    "module." before every key (a network saved from data-parallel training) is dropped.

    Raises UsageError for a file that is missing, damaged or of another kind, for a pickle that would run code, and
    for weights of another architecture, with the counts and the first keys that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("There is no such weights file.", where=path)
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    elif path.suffix in (".pt", ".pth"):
        state, metadata = _read_pickle(path), {}
    else:
        raise UsageError(
            "Weights of this kind cannot be read.", where=path, got=path.suffix, allowed=".safetensors, .pt, .pth"
        )
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    _check(module, state, path, metadata.get("model", ""))
    module.load_state_dict(state, strict=False)  # the only keys that may be missing are batch counters
    return metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if not path.read_bytes()[:2].startswith((b"\x80", b"PK")) or "Unsupported" not in text and "GLOBAL" not in text:
            raise _damaged(path, error) from error
        reason = next((line.strip() for line in text.splitlines() if "Unsupported" in line or "GLOBAL" in line), text)
        raise UsageError(
            "The file holds more than tensors: loading it would run code, so it is refused.",
            where=path,
            got=reason,
            allowed="a .pt file of tensors alone, or .safetensors",
            hint="where you trust the file, save its state dict alone: "
            "torch.save(torch.load(path, weights_only=False)['model'], 'weights.pt')",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise _damaged(path, error) from error
    for key in ("model", "state_dict"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data or not all(isinstance(value, Tensor) for value in data.values()):
        raise UsageError(
            "The file holds no state dict.",
            where=path,
            got=_described(data),
            allowed='names to tensors, bare or below "model" or "state_dict"',
        )
    return dict(data)


def _check(module: nn.Module, state: Mapping[str, Tensor], path: Path, model: str) -> None:
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    misshapen = [
        f"{key} {list(state[key].shape)} for {list(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or unexpected or misshapen:
        fits = len(wanted.keys() & state.keys()) - len(misshapen)
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        hint = "check the model's name and options, the number of classes and the number of channels"
        if " pruned by " in model:  # its shapes are not to be had from a name
            hint = f"it is {model}: `kdcompress run` its recipe again, into its folder, with other export.targets"
        raise UsageError(
            "The weights are those of another network.",
            where=path,
            got=f"{fits} of {len(wanted)} tensors fit; "
            + "; ".join(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in problems.items() if keys),
            allowed=f"the weights of this {type(module).__name__}",
            hint=hint,
        )


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        "The weights file is damaged or of another format.",
        where=path,
        got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
        hint="copy or download it again",
    )


def _described(data: Any) -> str:
    if isinstance(data, Mapping):
        return f"a mapping with keys {_first([str(key) for key in data])}"
    return type(data).__name__
