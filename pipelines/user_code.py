"""What a network or a method of the user's own is written in: a part of the key of the steps that use it, and refused
where no such code may run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdcompress.artifact import content_hash, sha256
from kdcompress.errors import UsageError
from kdcompress.own_code import located
from kdcompress.recipe import Recipe, code_of, is_code


def refuse_code(recipe: Recipe, further: Iterable[str] = ()) -> None:
    """Raises UsageError where the recipe, or one of the ``further`` names, names code of its own. None is imported."""
    named = [*code_of(recipe), *(name for name in further if is_code(name))]
    if named:
        hint = "leave --no-code out once you have read that code: it runs with all that you may do"
        raise UsageError("The recipe names code of its own.", where="--no-code", got=", ".join(named)[:400], hint=hint)


def code_hash(name: str) -> str:
    """Hash of the source of ``package.module:callable`` and of all that it imports from its own package, or from the
    folder that the package or module lies in, recursively; none of it is run. What it imports by a computed name is not
    seen.

    Raises UsageError where it cannot be found.
    """
    file = located("callable", name)
    return content_hash(sources(name.partition(":")[0], file) if file else {})


def sources(module: str, path: Path) -> dict[str, str]:
    """{module: SHA-256 of its file} of the module in the file ``path`` and of those that it is made of."""
    top = module.partition(".")[0]
    root = path.parents[len(module.split(".")) - (path.stem != "__init__")]
    installed = not {"site-packages", "dist-packages"}.isdisjoint(root.parts)
    found: dict[str, str] = {}
    left = [module]
    while left:
        name = left.pop()
        for each in _with_parents(name):  # importing a.b runs a as well
            if each in found or (installed and each.partition(".")[0] != top):
                continue
            source = path if each == module else _file(root, each)
            if source is not None:
                found[each] = sha256(source)
                left += _imports(source, each)
    return found


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _file(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_name(path.name + ".py")) if file.is_file()), None)


def _imports(file: Path, module: str) -> Iterator[str]:
    """Names that may be those of modules, wherever in the file they are imported."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # compiled, or not imported after all: its own hash is all
        return
    package = module.split(".") if file.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from filter(None, (base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)))
