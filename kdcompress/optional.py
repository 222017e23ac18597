"""Packages that are not part of the core install: imported at use, with the pip extra in the error."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from kdcompress.errors import RuntimeMissingError


def require(module: str, extra: str, why: str) -> ModuleType:
    """Import ``module`` or raise RuntimeMissingError that names the pip extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:  # a binding without its library raises ImportError too
        raise _missing(module, extra, why, f"{type(error).__name__}: {error}") from error


def require_installed(module: str, extra: str, why: str) -> None:
    """Raise RuntimeMissingError, which names the pip extra to install, unless ``module`` can be found. Nothing is
    imported: that takes seconds for some."""
    if not is_installed(module):
        raise _missing(module, extra, why, f"No module named {module!r}")


def _missing(module: str, extra: str, why: str, got: str) -> RuntimeMissingError:
    hint = f"pip install 'kdcompress[{extra}]'"
    return RuntimeMissingError(f"{why} needs the package {module!r}.", got=got, hint=hint)


def is_installed(module: str) -> bool:
    """Whether ``module`` can be found, without importing it."""
    if module in sys.modules:  # None where its import is forbidden
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
