"""The one registry pattern: a decorator that files a thing under a name, found when first asked for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kdcompress.errors import UsageError, unknown_name
from kdcompress.own_code import imported

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things. Modules of ``package`` whose name starts with ``prefix`` are imported at the
    first look-up, so a new file registers itself with no other edit. Where ``own`` names an attribute, a thing that
    has it and is not in the package is named ``package.module:NAME``.

    Raises UsageError for an unknown name and ValueError for a name registered twice.
    """

    def __init__(self, kind: str, package: str, prefix: str | tuple[str, ...] = "", own: str = ""):
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
