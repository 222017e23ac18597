"""A recipe's YAML file, what it is based on, and what the command line sets over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcompress import strict_yaml
from kdcompress.errors import UsageError
from kdcompress.own_code import importable
from kdcompress.recipe.plain import plain, shown
from kdcompress.recipe.validation import validate_recipe
from kdcompress.recipe.whole import Recipe
from kdcompress.strict_yaml import DEEPEST

SHIPPED = Path(__file__).parents[1] / "pipelines" / "recipes"


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a YAML file, on top of its ``base``, with ``key.sub=value`` overrides applied.

    Raises UsageError that lists every problem at once.
    """
    data = read_recipe(path)
    for override in overrides:
        apply_override(data, override)
    return validate_recipe(data, where=path)


def read_recipe(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys in a YAML file and those of its ``base``, which is another file: beside it, or a shipped recipe.

    All but the name is inherited. Where both files have a mapping, it is merged key by key; anything else, and what
    describes a method, is replaced. ``below`` are the files that this one is the base of.
    """
    data = strict_yaml.read(path, "recipe", "`kdcompress list recipes` shows those that come with kdcompress")
    if path.parent.resolve() != SHIPPED.resolve():
        importable(path.parent)
    if "base" not in data:
        return data
    base, chain = find_base(path, data.pop("base")), (*below, path.resolve())
    if base in chain:
        got = " -> ".join(str(file) for file in (*chain, base))
        raise UsageError("The recipe's base leads back to itself.", where=path, got=got)
    if len(chain) > DEEPEST:
        raise UsageError(f"The recipe has more than {DEEPEST} bases, one behind the other.", where=path)
    inherited = read_recipe(base, chain)
    inherited.pop("name", None)
    return merged(inherited, data)


def find_base(path: Path, base: Any) -> Path:
    """The file that ``base`` names: relative to the recipe's folder, else among the shipped recipes."""
    if not isinstance(base, str) or not base or plain(base, {}) != base:
        raise UsageError(
            "The base of a recipe must be the name of another recipe.", where=f"{path}: base", got=shown(base)
        )
    file = base if base.endswith((".yaml", ".yml")) else f"{base}.yaml"
    places = [path.parent / file, SHIPPED / file]
    found = [place.resolve() for place in places if place.is_file()]
    others = [place for place in found if place != path.resolve()]
    if found:
        return (others or found)[0]
    raise UsageError(
        "The recipe's base was not found.",
        where=f"{path}: base",
        got=base,
        allowed=" or ".join(map(str, places)),
        hint="`kdcompress list recipes` shows those that come with kdcompress",
    )


def merged(base: dict[str, Any], own: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        whole = key == "method" or path == ("compare", "methods")
        if isinstance(below, dict) and isinstance(value, dict) and not whole:
            value = merged(below, value, (*path, key))
        result[key] = value
    return result


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets the value at ``key.sub=value``. Of several for one key the last counts, as of a command's options."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError("An override is written key.sub=value.", got=override[:80], hint="train.epochs=3, for example")
    where, (*parents, last) = key[:80], key.split(".")
    if len(parents) >= DEEPEST:
        raise UsageError(f"No key of a recipe is more than {DEEPEST} levels deep.", where=where)
    try:
        value = strict_yaml.parse(text)
    except ValueError as error:
        raise UsageError(f"The override's value is not valid YAML: {error}", where=where, got=text[:80]) from error
    for parent in parents:
        below = data.get(parent)
        if below is None:
            below = data[parent] = {}
        elif isinstance(below, str) and parent == "method":
            below = data[parent] = {below: {}}
        elif isinstance(below, dict):
            below = data[parent] = dict(below)  # a YAML anchor's mapping stands in several places
        else:
            raise UsageError("The override goes below a key that holds a plain value.", where=where, got=shown(below))
        data = below
    data[last] = value
