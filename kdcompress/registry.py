"""The one registry pattern: a decorator that files a thing under a name, found when first asked for."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from kdcompress.errors import UsageError, place, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things. Modules of ``package`` whose name starts with ``prefix`` are imported at the
    first look-up, so a new file registers itself with no other edit. Where ``own`` names an attribute, a thing that
    has it and is not in the package is named ``package.module:NAME``.

    Raises UsageError for an unknown name and ValueError for a name registered twice.
    """

    def __init__(self, kind: str, package: str, prefix: str = "", own: str = ""):
        self.kind, self.package, self.prefix, self.own = kind, package, prefix, own
        self._entries: dict[str, T] = {}
        self._imported = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def entries(self) -> dict[str, T]:
        if not self._imported:
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                if module.name.startswith(self.prefix):
                    importlib.import_module(f"{self.package}.{module.name}")
            self._imported = True
        return dict(sorted(self._entries.items()))

    def __getitem__(self, name: str) -> T:
        if self.own and ":" in name:
            found = imported(self.kind, name)
            if not hasattr(found, self.own):
                raise UsageError(f"{name} is no {self.kind}.", got=f"{found!r:.80}, which has no {self.own!r}")
            return found
        entries = self.entries()
        if name not in entries:
            raise unknown_name(self.kind, name, entries)
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries() or bool(self.own and isinstance(name, str) and ":" in name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries())


def imported(kind: str, name: str) -> Any:
    """What ``package.module:NAME`` names; the current folder is importable. Raises UsageError where there is none."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"A {kind} of your own is written package.module:NAME.", where=kind, got=name)
    if "" not in sys.path:  # a console script has its own folder there, not the current one
        sys.path.append("")
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"The module {module_name!r} cannot be imported.",
            where=place(error) or name,
            got=f"{type(error).__name__}: {error}",
            hint="run from the folder that holds it, or install its package",
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"callable in {module_name}", attribute, callables, where=name)
    return found
