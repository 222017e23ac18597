"""Weights on disk: safetensors written whole or not at all, and read with every mismatch in one error."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kdcompress.artifact import replacing
from kdcompress.console import say_once
from kdcompress.errors import UsageError
from kdcompress.models.state_dicts import Found, choose, differing, look, mappings
from kdcompress.models.wrapped import bare, bare_names

SHOWN = 5
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".tar")


def save_weights(
    module_or_state_dict: nn.Module | Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a state dict as safetensors, with text ``metadata``; the folder must be there. The names are those of the
    bare network, of one that is compiled or wrapped for data parallelism.

    The file appears whole, under its name, or not at all. Tensors that share memory are written once each.
    Raises UsageError for an entry that is no tensor.
    """
    state = module_or_state_dict
    if isinstance(state, nn.Module):
        state = bare(state).state_dict()
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in bare_names(state).items():
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


def load_weights(module: nn.Module, path: Path, key: str | None = None) -> dict[str, str]:
    """Loads weights into ``module``, all or none, and returns the file's metadata.

    Takes .safetensors, and PyTorch's files (.pt, .pth, .ckpt, .bin, .tar) of tensors and plain values: a state dict,
    bare or below some key, whose names are the network's after one prefix (see ``state_dicts``). ``key`` says which
    one where several fit, such as the weights and their average. A line says what was taken of more than a bare one.

    Raises UsageError for a file that is missing, damaged or of another kind, for a pickle that would run code, for
    several state dicts that fit, for values that are not finite, and for weights of another architecture, with the
    counts and the first keys that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("There is no such weights file.", where=path)
    suffix = path.suffix.lower()
    data: Mapping[str, Any]
    if suffix == ".safetensors":
        data, metadata = _read_safetensors(path)
    elif suffix in PICKLED:
        data, metadata = _read_pickle(path), {}
    else:
        raise UsageError(
            "Weights of this kind cannot be read.",
            where=path,
            got=path.suffix or "no suffix",
            allowed=", ".join((".safetensors", *PICKLED)),
        )
    net = bare(module)
    names = bare_names({name: name for name in net.state_dict()})
    wanted = bare_names(net.state_dict())
    found = _chosen(look(data, wanted), data, wanted, path, key, f"this {type(net).__name__}", metadata)
    state = {name: _dense(value) for name, value in found.state.items()}
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UsageError("Some weights are not finite numbers.", where=path, got=_first(broken))
    if found.place or found.prefix or found.left_out:
        rest = f"; left out: {_first(found.left_out)}" if found.left_out else ""
        say_once(f"weights: {path}{_place(found)}{rest}", "dim")
    state = {names[name]: value for name, value in state.items()}
    net.load_state_dict(state, strict=False)  # the only keys that may be missing are batch counters
    return metadata


def _chosen(
    looked: list[Found],
    data: Mapping[str, Any],
    wanted: Mapping[str, Tensor],
    path: Path,
    key: str | None,
    network: str,
    metadata: Mapping[str, str],
) -> Found:
    fitting = differing([each for each in looked if each.fits])
    if not fitting:
        raise _misfit(looked, data, wanted, path, network, metadata.get("model", ""))
    if key is not None:
        return choose(fitting, key)
    if len(fitting) > 1:
        labels = [each.label + (" (an average of the weights)" if each.is_average else "") for each in fitting]
        first = next((each for each in fitting if each.is_average), fitting[0])
        raise UsageError(
            "The file holds several weights that fit.",
            where=path,
            got=", ".join(labels),
            allowed="one of them, named in `weights_key` (--weights-key)",
            hint=f"weights_key: {first.label}" + (", for averages mostly do better" if first.is_average else ""),
        )
    return fitting[0]


def _place(found: Found) -> str:
    below = f", below {found.place!r}" if found.place else ""
    prefix = f", without {found.prefix!r} before each name" if found.prefix else ""
    return below + prefix


def _dense(value: Tensor) -> Tensor:
    value = value.detach()
    if value.is_quantized:
        return value.dequantize()
    return value.to_dense() if value.layout is not torch.strided else value


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _harmless() -> list[Any]:
    """Classes beside tensors that checkpoints hold (options, paths, scores) and that run nothing when they are made."""
    kinds = [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?", "U1")]
    made = {"scalar": np.float64(0), "_reconstruct": np.zeros(1)}  # by these functions, whose module has been renamed
    homes = ("numpy.core.multiarray", "numpy._core.multiarray")
    makers = [(value.__reduce__()[0], f"{home}.{name}") for name, value in made.items() for home in homes]
    paths = [pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath]
    return [argparse.Namespace, *paths, *kinds, *makers, np.dtype, np.ndarray]


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(_harmless()):
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
            hint="where you trust the file, load it with torch.load(path, weights_only=False), and save the network's "
            "state dict alone: torch.save(net.state_dict(), 'weights.pt')",
        ) from error
    except Exception as error:  # damaged files end in errors of every kind
        raise _damaged(path, error) from error
    if not isinstance(data, Mapping):
        raise _no_state_dict(path, data)
    return data


def _no_state_dict(path: Path, data: Any) -> UsageError:
    return UsageError(
        "The file holds no state dict.",
        where=path,
        got=_described(data),
        allowed="names to tensors, bare or below a key",
    )


def _misfit(
    looked: list[Found], data: Any, wanted: Mapping[str, Tensor], path: Path, network: str, model: str
) -> UsageError:
    """Why nothing in the file fits, by what fits best."""
    if not looked:
        names = _names(data)
        if not names:
            return _no_state_dict(path, data)
        looked = [Found("", "", {}, [name for name in wanted if not name.endswith("num_batches_tracked")], names)]
    best = looked[0]
    problems = {
        "missing": best.missing,
        "unexpected": [*best.unexpected, *best.left_out],
        "of another shape": best.misshapen,
    }
    hint = "check the model's name and options, the number of classes and the number of channels"
    if " pruned by " in model:  # its shapes are not to be had from a name
        hint = f"it is {model}: `kdcompress run` its recipe again, into its folder, with other export.targets"
    return UsageError(
        "The weights are those of another network.",
        where=path,
        got=f"{len(best.state) - len(best.misshapen)} of {len(wanted)} tensors fit{_place(best)}; "
        + "; ".join(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in problems.items() if keys),
        allowed=f"the weights of {network}",
        hint=hint,
    )


def _names(data: Mapping[Any, Any]) -> list[str]:
    """Of all tensors of a file's first state dict."""
    return next((list(state) for _, state in mappings(data)), [])


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


def facts_of(path: Path) -> dict[str, Any]:
    """What a .safetensors file of weights says of itself, as far as it does: ``labels`` (names of the classes),
    ``mean`` and ``std`` (of pixels in 0..1, one a channel). Empty for other files, and for one that cannot be read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}
    found: dict[str, tuple[Any, ...]] = {}
    for key, kind in (("labels", str), ("mean", (int, float)), ("std", (int, float))):
        try:
            value = json.loads(said.get(key, ""))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list) and value and all(isinstance(part, kind) for part in value):  # type: ignore[arg-type]
            found[key] = tuple(value)
    mean, std = found.get("mean", ()), found.get("std", ())
    if len(mean) != len(std) or not all(map(math.isfinite, mean + std)) or not all(part > 0 for part in std):
        return {key: value for key, value in found.items() if key == "labels"}
    return found
