"""The recipe as a JSON schema, for editors and for the reference page: what may stand in the file, and what it means.

It allows a little more than a run does: what one key asks of another is checked when the recipe is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdcompress.recipe.whole import TRACKERS, Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "kdcompress recipe"
NETWORKS = ("Network", "Teacher", "Student", "Assistant", "Foundation")
TRAININGS = ("Train", "FeatureTrain")
BASE = "Recipe that this one starts from: a file beside it, or the name of a recipe that comes with kdcompress."


def recipe_schema(
    models: Sequence[str] = (),
    methods: Mapping[str, Mapping[str, Any]] | None = None,
    targets: Sequence[str] = (),
    sources: Sequence[str] = (),
    tasks: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """With the names that editors propose, which refuse no others: ``package.module:NAME`` is always allowed.
    ``methods``: by name, the schema of its options."""
    found = Recipe.model_json_schema()
    parts: dict[str, Any] = found["$defs"]
    for part in parts.values():
        for value in part["properties"].values():
            _plain(value)
    keys = found["properties"]
    for value in keys.values():
        _plain(value)
    for key, schema in {
        "ModelName": _open(models),
        "TargetName": _open(targets),
        "Method": _method(methods or {}),
    }.items():
        parts[key] = schema
    target, method = {"$ref": "#/$defs/TargetName"}, {"$ref": "#/$defs/Method"}
    keys["method"] = method | _said(keys["method"])
    parts["Assistant"]["properties"]["method"] = {"anyOf": [method, {"type": "null"}]} | _said(
        parts["Assistant"]["properties"]["method"]
    )
    parts["Pretrain"]["properties"]["method"] = method | _said(parts["Pretrain"]["properties"]["method"])
    compared = parts["Compare"]["properties"]["methods"]
    parts["Compare"]["properties"]["methods"] = {"type": "object", "additionalProperties": method} | _said(compared)
    for name in NETWORKS:
        _network(parts[name]["properties"])
    _more(parts["Export"]["properties"], "targets", {"type": "array", "items": target}, target)
    _more(parts["Budgets"]["properties"], "target", {"type": "array", "items": target}, target)
    _more(parts["Data"]["properties"], "source", _open(sources))
    for train in (parts[name]["properties"] for name in TRAININGS):
        _more(train, "compile", train["compile"], {"type": "boolean"})
        _more(train, "teacher_cache", train["teacher_cache"], {"const": False})
    for views in ("Augment", "Second"):
        _more(parts[views]["properties"], "trivial", parts[views]["properties"]["trivial"], {"type": "boolean"})
    for role in ("teacher", "student"):
        gate = parts["Gates"]["properties"][role]
        parts["Gates"]["properties"][f"{role}_accuracy"] = {**gate, "description": f"Older name of `{role}`."}
    _more(keys, "task", _open(tasks))
    _more(keys, "metric", _open(metrics), {"type": "null"})
    _more(keys, "search", {"$ref": "#/$defs/Search"}, {"type": "integer", "minimum": 0, "maximum": 1000})
    _more(parts["Train"]["properties"], "tune", {"$ref": "#/$defs/Tune"}, {"type": "integer", "minimum": 0})
    _more(keys, "track", {"type": "array", "items": {"enum": list(TRACKERS)}}, {"enum": list(TRACKERS)})
    _required(found, parts)
    keys = {"base": {"type": "string", "description": BASE}, **keys}
    return {"$schema": DIALECT, **found, "title": TITLE, "properties": keys}


def _plain(value: dict[str, Any]) -> None:
    """Without the titles that repeat the keys, and without defaults that are whole sections."""
    value.pop("title", None)
    if isinstance(value.get("default"), dict):
        value.pop("default")


def _said(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in ("description", "default") if key in value}


def _more(properties: dict[str, Any], key: str, *forms: dict[str, Any]) -> None:
    """The key may be written in any of the forms."""
    said = _said(properties[key])
    forms = tuple({k: v for k, v in form.items() if k not in said} for form in forms)
    properties[key] = (forms[0] if len(forms) == 1 else {"anyOf": list(forms)}) | said


def _open(names: Sequence[str]) -> dict[str, Any]:
    """One of the names, which editors propose, or any other."""
    text = {"type": "string", "minLength": 1}
    return {"anyOf": [{"enum": list(names)}, text]} if names else text


def _method(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A name, names with their options, or a list of both."""
    each = {
        name: {"anyOf": [{k: v for k, v in schema.items() if k != "title"}, {"type": "null"}]}
        for name, schema in options.items()
    }
    mapping = {"type": "object", "minProperties": 1, "properties": each}
    mapping["additionalProperties"] = {"type": ["object", "null"]}
    one = [_open(list(options)), mapping]
    return {"anyOf": [*one, {"type": "array", "minItems": 1, "items": {"anyOf": one}}]}


def _network(properties: dict[str, Any]) -> None:
    """``mean`` and ``std`` may be one number for all channels, or text; models are proposed."""
    _more(properties, "model", {"$ref": "#/$defs/ModelName"})
    for key in ("mean", "std"):
        _more(properties, key, *properties[key]["anyOf"], {"type": "number"}, {"type": "string"})


def _required(found: dict[str, Any], parts: dict[str, Any]) -> None:
    """What has to be there is in the base, where there is one."""
    sections = {"data": "Data", "teacher": "Teacher"}
    inner: dict[str, Any] = {}
    for key, name in sections.items():
        needed = parts[name].pop("required", [])
        inner[key] = {"if": {"type": "object"}, "then": {"required": needed}}
    inner["teacher"]["then"] = {"anyOf": [{"required": [key]} for key in ("model", "file", "answers")]}
    found["required"] = ["name"]
    found["if"] = {"not": {"required": ["base"]}}
    found["then"] = {"required": ["data", "student"], "properties": inner}
