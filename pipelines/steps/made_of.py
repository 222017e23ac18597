"""What a training's result depends on beside its settings: the contents of its networks and methods, and what made
them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdcompress.artifact import sha256
from kdcompress.errors import UsageError
from kdcompress.models.names import packages
from kdcompress.models.timm_places import folder_hash
from kdcompress.own_code import is_own
from kdcompress.pipelines.user_code import code_hash
from kdcompress.recipe import Network


def contents(networks: Sequence[Network], methods: Iterable[str]) -> dict[str, str]:
    """Hashes of the weights, the code and the folders that these name. Raises UsageError for weights that cannot be
    read."""
    hashes = {}
    for index, network in enumerate(networks):
        if network.weights:
            hashes[f"weights-{index}"] = _hash(network.weights)
        if is_own(network.model):
            hashes[f"code-{index}"] = code_hash(network.model)
        if found := folder_hash(network.model):
            hashes[f"folder-{index}"] = found
    return hashes | {f"code-{name}": code_hash(name) for name in methods if is_own(name)}


def made_by(networks: Iterable[Network]) -> set[str]:
    """The extra packages that make these."""
    return {package for network in networks for package in packages(network.model)}


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise UsageError("The weights cannot be read.", where=path, got=error.strerror) from error
