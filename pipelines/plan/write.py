"""The recipe that a plan is asked for, and the one that it writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kdcompress.artifact import clean_name, kept_json, write_text
from kdcompress.console import say
from kdcompress.errors import UsageError
from kdcompress.export import formats
from kdcompress.models.build import pretrained_facts
from kdcompress.pipelines.plan.candidates import WEIGHTLESS
from kdcompress.pipelines.plan.records import Judged
from kdcompress.pipelines.timed import untimed
from kdcompress.recipe import Candidate, Recipe, Search, Section, Student, validate_recipe

MARK = "# Written by `kdcompress plan`"


def asked_for(data: dict[str, Any], budgets: dict[str, Any], bench: dict[str, Any]) -> Recipe:
    """``data``, a recipe as it was written, changed in place to what the command asks of it: its ``budgets`` and
    ``bench`` over those in the recipe, the budgets' targets among those that are exported, and for no budget's target
    those that are timed on the device. Raises UsageError where that is no valid recipe."""
    read = data.get("export") or {}
    if not all(isinstance(data.get(section) or {}, dict) for section in ("budgets", "export", "bench")) or not (
        isinstance(read.get("targets") or [], (str, list))
    ):
        return validate_recipe(data)  # which says so
    merged = {**(data.get("budgets") or {}), **budgets}
    merged.pop("candidates", None)  # an earlier plan's
    search = data.pop("search", None)
    _search(search)
    data["budgets"] = merged
    if bench:
        data["bench"] = {**(data.get("bench") or {}), **bench}
    export = data.get("export") or {}
    known = export.get("targets") or []
    known = [known] if isinstance(known, str) else list(known)
    further = [name for name in budgets.get("target", ()) if name not in known]
    if further and formats.AUTO not in known:
        data["export"] = {**export, "targets": [*known, *further]}
    recipe = validate_recipe(data)
    if not recipe.budgets.target and formats.AUTO not in recipe.export.targets:
        chosen = formats.chosen(recipe.export.targets)
        without = untimed(recipe.bench.device, chosen)
        merged["target"] = [
            name
            for name, target in zip(recipe.export.targets, chosen, strict=True)
            if target.name not in without and formats.availability(target)[0]
        ]
        recipe = validate_recipe(data)
    if search is not None:
        data["search"] = search
    return recipe


def write_recipe(data: dict[str, Any], recipe: Recipe, inside: Sequence[Judged], path: Path, command: str) -> None:
    """``data``, the recipe as it was written, with the student that is proposed, the first of those ``inside`` the
    budgets, and all of them in its budgets."""
    candidates = tuple(_candidate(recipe, each) for each in inside)
    written = json.loads(json.dumps(data, default=str))  # where YAML's anchors shared a mapping there are two
    written["name"] = clean_name(path.stem)
    written["student"] = _given(candidates[0].student)
    written["budgets"] = _given(recipe.budgets.model_copy(update={"candidates": candidates}))
    search = _search(data.get("search"))
    if search.candidates > len(candidates):
        say(f"search: only {len(candidates)} of the {search.candidates} candidates it asks for are inside the budgets")
        written["search"] = {**_given(search), "candidates": len(candidates) if len(candidates) > 1 else 0}
    text = yaml.safe_dump(written, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    write_text(path, f"{MARK}: {command}\n{text}")


def _candidate(recipe: Recipe, judged: Judged) -> Candidate:
    return Candidate(
        student=_as_shipped(recipe, judged.student),
        macs=judged.macs,
        parameters=judged.counted.parameters,
        latency_ms={name: round(found.ms, 4) for name, found in judged.latency.items()},
        bytes=judged.bytes,
    )


def _as_shipped(recipe: Recipe, student: Student) -> Student:
    """As the recipe is to have it: its own student as it stands there, another with the library's weights where the
    recipe starts from such."""
    own = recipe.student
    if student == own.model_copy(update=WEIGHTLESS):
        return own
    if not own.pretrained or student.prune:
        return student
    try:
        pretrained_facts(student.model, student.options)
    except UsageError:
        return student
    return student.model_copy(update={"pretrained": True})


def _search(value: Any) -> Search:
    """As the recipe has it, whether or not there are candidates yet. Raises UsageError."""
    try:
        return Search.model_validate({"candidates": value} if type(value) is int else value or {})
    except ValidationError as error:
        got = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'search'}: {e['msg']}" for e in error.errors())
        raise UsageError("The recipe's `search` is not valid.", where="search", got=got[:400]) from error


def _given(section: Section) -> dict[str, Any]:
    given: dict[str, Any] = section.model_dump(mode="json", exclude_defaults=True)
    return given


def check_output(path: Path, record: Path) -> None:
    """Raise UsageError where a recipe that no plan wrote, or a record, would be written over."""
    if path.exists() and (not path.is_file() or not path.read_text(errors="replace").startswith(MARK)):
        raise UsageError(
            "The file exists and is not from `kdcompress plan`.", where=path, hint="choose another with --output"
        )
    kept = kept_json(record)
    if record.exists() and not (isinstance(kept, dict) and {"kdcompress", "candidates", "proposed"} <= set(kept)):
        raise UsageError(
            "The file exists and is not from `kdcompress plan`.", where=record, hint="choose another with --output"
        )
    if not path.parent.is_dir():
        raise UsageError("The folder is not there.", where=path.parent, hint="make it, or choose another with --output")
