"""Packages that are not part of the core install: imported at use, with the pip extra in the error."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from kdcompress.errors import RuntimeMissingError


def require(module: str, extra: str, why: str) -> ModuleType:
    """Import ``module`` or raise RuntimeMissingError that names the pip extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:  # a binding without its library raises ImportError too
        raise RuntimeMissingError(
            f"{why} needs the package {module!r}.",
            got=f"{type(error).__name__}: {error}",
            hint=f"pip install 'kdcompress[{extra}]'",
        ) from error


def is_installed(module: str) -> bool:
    """Whether ``module`` can be found, without importing it."""
    return importlib.util.find_spec(module) is not None
