"""Which settings of a training are searched, between which values, and a training with others of them.

Their names are those of a recipe's overrides: ``train.lr``, ``method.kd.weight``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from kdcompress.errors import UsageError, unknown_name
from kdcompress.methods import methods
from kdcompress.methods.base import MethodOptions
from kdcompress.ours import Ours
from kdcompress.pipelines.parts import Part, Role
from kdcompress.pipelines.provenance import recipe_yaml
from kdcompress.recipe import Recipe, Search, Train

LR_TIMES, METHOD_TIMES = 5.0, 4.0  # the recipe's value divided by this, and times this: the usual ranges
TUNED = "tuned.yaml"  # in a run's folder
NOT_SEARCHED = {"epochs", "teacher_cache_gib"}  # numbers of a training that are no settings of it


@dataclass(frozen=True)
class Setting:
    name: str
    given: float  # the recipe's own value
    low: float
    high: float

    @property
    def log(self) -> bool:
        return self.low > 0


def settings(part: Part) -> list[Setting]:
    """Those that are searched: as the recipe says, else the learning rate, and the weights and temperatures of the
    methods. Raises UsageError for ranges of what is no setting, or that cannot be tried."""
    assert part.train is not None
    known = {name: (value, field) for name, value, field in _numbers(part)}
    if not part.train.tune.ranges:
        usual = {name: each for name, each in known.items() if each[0] > 0 and _is_usual(name, each[1])}
        return [_around(name, value, field) for name, (value, field) in usual.items()]
    found = []
    for name, (low, high) in part.train.tune.ranges.items():
        where = f"tune.ranges.{name}"
        if name not in known:
            raise unknown_name("setting", name, known, where="tune.ranges")
        given = known[name][0]
        if not low <= given <= high:
            what = "The range of a setting must hold the recipe's own value, which is tried first."
            raise UsageError(what, where=where, got=f"{low:g} to {high:g}", allowed=f"a range with {given:g} in it")
        for end in (low, high):
            try:
                with_values(part, {name: end})
            except ValidationError as error:
                problem = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise UsageError(f"A setting cannot have this value: {problem}", where=where, got=f"{end:g}") from error
        found.append(Setting(name, given, low, high))
    return found


def _numbers(part: Part) -> Iterator[tuple[str, float, FieldInfo]]:
    """(name, value, field) of each setting that is a number."""
    for key, field in Train.model_fields.items():
        value = getattr(part.train, key)
        if type(value) is float and key not in NOT_SEARCHED:
            yield f"train.{key}", value, field
    for name, options in part.method.items():
        parsed = methods[name].parse_options(name, options)
        for key, field in type(parsed).model_fields.items():
            if type(value := getattr(parsed, key)) is float:
                yield f"method.{name}.{key}", value, field


def _is_usual(name: str, field: FieldInfo) -> bool:
    """Of the methods' own options, weights and temperatures; what all methods have says when they act."""
    if name.startswith("train."):
        return name == "train.lr"
    key = name.rpartition(".")[2]
    weight = key.endswith("weight") or (field.description or "").startswith("Weight of")
    return key not in MethodOptions.model_fields and (weight or key.endswith("temperature"))


def _around(name: str, value: float, field: FieldInfo) -> Setting:
    times = LR_TIMES if name == "train.lr" else METHOD_TIMES
    least = max((bound for each in field.metadata if (bound := getattr(each, "ge", None)) is not None), default=0.0)
    most = min((bound for each in field.metadata if (bound := getattr(each, "le", None)) is not None), default=1e9)
    return Setting(name, value, max(value / times, least), min(value * times, most))


def with_values(part: Part, values: Mapping[str, float]) -> Part:
    """With these settings, and no search for others. Raises ValidationError or UsageError for values that they cannot
    have."""
    assert part.train is not None
    train = {key.removeprefix("train."): value for key, value in values.items() if key.startswith("train.")}
    method: dict[str, dict[str, Any]] = {}
    for name, options in part.method.items():
        begin = f"method.{name}."
        own = {key.removeprefix(begin): value for key, value in values.items() if key.startswith(begin)}
        method[name] = {**options, **own}
        methods[name].parse_options(name, method[name])
    changed = Train.model_validate({**part.train.untuned().model_dump(), **train})
    return replace(part, train=changed, method=method)


def save_tuned(
    recipe: Recipe, parts: Mapping[Role, Part], winners: Mapping[Role, Mapping[str, float]], folder: Path
) -> Path:
    """Writes the recipe that won. Raises UsageError where another file of that name is there, which kdcompress did not
    write."""
    return Ours(folder).write(TUNED, recipe_yaml(tuned_recipe(recipe, parts, winners)))


def tuned_recipe(recipe: Recipe, parts: Mapping[Role, Part], winners: Mapping[Role, Mapping[str, float]]) -> Recipe:
    """The recipe that won: with the ``winners``' settings, and nothing that searches."""
    changed: dict[str, Any] = {"search": Search()}
    usual = {"train": recipe.train and recipe.train.untuned(), "method": recipe.method}
    for role, values in winners.items():
        part = with_values(parts[role], values)
        if role == "student":
            changed |= {"train": part.train, "method": part.method}
            changed["assistants"] = tuple(
                each.model_copy(update={key: getattr(each, key) or value for key, value in usual.items()})
                for each in recipe.assistants
            )
        elif recipe.teacher:
            changed["teacher"] = recipe.teacher.model_copy(update={"train": part.train})
    return recipe.model_copy(update=changed)
