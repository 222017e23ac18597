"""Plain values -> validated Recipe, with every problem at once."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from kdcompress.errors import UsageError
from kdcompress.recipe.plain import listed, plain, shown
from kdcompress.recipe.section import Section
from kdcompress.recipe.whole import Recipe


def validate_recipe(data: dict[str, Any], where: object = None) -> Recipe:
    unusable: dict[tuple[str, ...], str] = {}
    try:
        recipe = Recipe.model_validate(plain(data, unusable))
        found = []
    except ValidationError as error:
        found = [e for e in error.errors() if not any(tuple(map(str, e["loc"]))[: len(loc)] == loc for loc in unusable)]
    problems = [f"{'.'.join(loc) or 'recipe'}: {why}" for loc, why in unusable.items()] + [_problem(e) for e in found]
    if not problems:
        return recipe
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise UsageError(f"The recipe has {count}:\n{listed(problems)}", where=where)


def _problem(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        known = _keys(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"{path}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
    whole = error["type"] == "missing" or (error["type"] == "value_error" and isinstance(error["input"], dict))
    got = "" if whole else f" (got {shown(error['input'])})"  # of a section, the message names the keys
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{got}"


def _keys(loc: tuple[Any, ...]) -> list[str]:
    """The keys that the section at ``loc`` knows."""
    section: Any = Recipe
    for part in loc:
        if isinstance(part, int):  # a place in a list of sections
            continue
        kind = section.model_fields[part].annotation
        options = [kind, *getattr(kind, "__args__", ())]
        section = next(o for o in options if isinstance(o, type) and issubclass(o, Section))
    return sorted(section.model_fields)
