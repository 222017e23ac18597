"""Markdown of what the reference pages are made of: tables, docstrings, and the keys of pydantic's models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def prose(text: str | None) -> str:
    """A docstring as Markdown: what is in quotes for code is code, and no other character has a meaning."""
    parts = re.split(r"(``.*?``|`[^`]+`)", inspect.cleandoc(text or ""), flags=re.DOTALL)
    return "".join(f"`{p.strip('`')}`" if p[:1] == "`" else re.sub(r"([*_\[\]<>|\\])", r"\\\1", p) for p in parts)


def line(text: str | None) -> str:
    return " ".join(prose(text).split())


def code(value: object) -> str:
    return f"`{value}`"


def kind(annotation: Any) -> str:
    """A type in plain words; a section links to its keys."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(inner[0])
    if origin is Literal:
        return ", ".join(code(value) for value in inner)
    if origin in (Union, UnionType):
        return " or ".join("null" if each is NoneType else kind(each) for each in inner)
    if origin in (tuple, list):
        items = [each for each in inner if each is not Ellipsis]
        return (
            f"list of {kind(items[0])}" if Ellipsis in inner or origin is list else f"{len(items)} × {kind(items[0])}"
        )
    if origin is dict:
        return f"map: {kind(inner[0])} → {kind(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
    return words.get(annotation, "path" if getattr(annotation, "__name__", "") == "Path" else str(annotation))


def limits(found: Any) -> list[str]:
    """What annotations allow, those of the type's parts too."""
    if isinstance(found, FieldInfo):
        return [*bounds(found.metadata), *limits(found.annotation)]
    inner = get_args(found)
    if get_origin(found) is Annotated:
        fields = [each for each in inner[1:] if isinstance(each, FieldInfo)]
        return [*bounds([part for each in fields for part in each.metadata]), *bounds(inner[1:]), *limits(inner[0])]
    return [] if get_origin(found) is Literal else [limit for each in inner for limit in limits(each)]


def bounds(metadata: Iterable[Any]) -> list[str]:
    found = [f"{SIGNS[key]} {getattr(part, key):,}" for part in metadata for key in SIGNS if hasattr(part, key)]
    found += [f"at least {part.min_length} long" for part in metadata if getattr(part, "min_length", 0) > 1]
    found += [f"at most {part.max_length:,} long" for part in metadata if getattr(part, "max_length", None)]
    return found + [code(part.pattern) for part in metadata if getattr(part, "pattern", None)]


def default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_defaults=True, mode="json")
        return ", ".join(code(f"{key}: {part}") for key, part in given.items()) or "its defaults"
    words = {None: "null", True: "true", False: "false", (): "none"}
    if isinstance(value, (NoneType, bool, tuple)) and value in words:
        return words[value]
    return code(list(value) if isinstance(value, tuple) else value)


def fields(model: type[BaseModel], names: Iterable[str] | None = None) -> str:
    rows = []
    for name in model.model_fields if names is None else names:
        field = model.model_fields[name]
        allowed = ", ".join(dict.fromkeys(limits(field)))
        rows.append([code(name), kind(field.annotation), default(field), allowed, line(field.description)])
    return table(["key", "type", "default", "allowed", "meaning"], rows)


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and all that its fields hold, in the order in which they are met."""
    found: dict[type[BaseModel], None] = {}

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found[annotation] = None
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for inner in get_args(annotation):
            visit(inner)

    visit(model)
    return list(found)
