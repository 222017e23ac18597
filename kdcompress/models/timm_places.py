"""timm's networks that are described outside of it: ``hf-hub:OWNER/NAME``, also with ``@REVISION``, is a repository of
the Hugging Face Hub, ``local-dir:FOLDER`` a folder of the same files. A ``config.json`` there names the architecture;
the weights are beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from kdcompress.artifact import content_hash, sha256
from kdcompress.errors import UsageError
from kdcompress.untrusted import MOST_CLASSES, finite, text, whole

PLACES = ("hf-hub:", "local-dir:")


class Placed(NamedTuple):
    """``labels``: the names of the classes, where they are said."""

    architecture: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]
    origin: str


def whole_name(name: str) -> str:
    """With timm's name before it, which may be left out."""
    return f"timm/{name}" if name.startswith(PLACES) else name


def is_timms(name: str) -> bool:
    """Whether it names one of timm's networks, wherever it is described."""
    return whole_name(name).startswith("timm/")


def placed(name: str) -> Placed | None:
    """What is said of the network ``name``, without ``timm/``; None for one of timm's own. The description is
    downloaded where it is not kept.

    Raises UsageError where there is none, or none of timm's.
    """
    if not name.startswith(PLACES):
        return None
    from timm.models import _hub

    place, _, where = name.partition(":")
    origin = f"https://huggingface.co/{where}" if place == "hf-hub" else where
    read = getattr(_hub, f"load_model_config_from_{'hf' if place == 'hf-hub' else 'path'}", None)
    if read is None:
        raise UsageError("This timm reads no folders.", where=name, hint="pip install --upgrade timm")
    try:
        said, architecture, _ = read(where)
    except Exception as error:  # of the network, the Hub, the disk and the file: of many kinds
        raise _unavailable(name, origin, error) from error
    return _checked(architecture, said, origin)


def without_place(name: str) -> str:
    """The name as others may read it: of a folder only what it is called."""
    before, found, folder = name.partition("local-dir:")
    return f"{before}{found}{Path(folder).name}" if found else name


def folder_hash(name: str) -> str | None:
    """Of all files of a network in a folder; None for another network."""
    found = re.search(r"(?:^|/)local-dir:(.+)", name)
    if found is None:
        return None
    files = sorted(path for path in Path(found[1]).glob("*") if path.is_file())
    return content_hash({path.name: sha256(path) for path in files})


def _checked(architecture: Any, said: Any, origin: str) -> Placed:
    rules = {
        "num_classes": lambda value: whole(value, 0, MOST_CLASSES),
        "mean": _channels,
        "std": _channels,
        "label_names": lambda value: isinstance(value, (list, tuple)) and all(map(text, value)),
    }
    usual: dict[str, Any] = {
        "num_classes": 1000,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "label_names": (),
    }
    found = {key: usual[key] if said.get(key) is None else said[key] for key in rules}
    wrong = [f"{key}: {found[key]!r:.80}" for key, rule in rules.items() if not rule(found[key])]
    if wrong or not text(architecture):
        raise UsageError(
            "The description of the network is damaged.", where=origin, got="; ".join(wrong) or architecture
        )
    labels = tuple(found["label_names"])
    mean, std = (tuple(map(float, found[key])) for key in ("mean", "std"))
    named = labels if len(labels) == found["num_classes"] else ()
    return Placed(architecture, found["num_classes"], mean, std, named, origin)


def _channels(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and 0 < len(value) <= 64 and all(map(finite, value))


def _unavailable(name: str, origin: str, error: Exception) -> UsageError:
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)):
        what, hint = "This place describes no network of timm's.", "its config.json has to name the `architecture`"
    elif name.startswith("local-dir:"):
        what, hint = "This folder describes no network of timm's.", "give the folder of config.json and the weights"
    else:
        what = "The network cannot be had from the Hub."
        hint = (
            "run it once where the Hub is reachable (its cache keeps it); for a private or gated network, "
            "`hf auth login` or set HF_TOKEN"
        )
    return UsageError(what, where=origin, got=said[:600], hint=hint)
