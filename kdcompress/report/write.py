"""The report's files: report.json with every sample, report.md and report.html."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kdcompress.errors import UsageError
from kdcompress.ours import Ours
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown
from kdcompress.report.rows import Row
from kdcompress.untrusted import inside, read_json

FORMER = {"accuracy": "score", "validation_accuracy": "validation_score", "same_argmax": "matched", "stages": "steps"}
NO_ROW = {field.name: None for field in fields(Row)}


def write_report(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """report.json with every sample, report.md and report.html."""
    return write_document(document, folder, "report", markdown, html)


def write_document(
    document: Mapping[str, Any],
    folder: Path,
    name: str,
    markdown: Callable[[Mapping[str, Any]], str],
    html: Callable[[Mapping[str, Any]], str],
) -> list[Path]:
    """Writes NAME.json, NAME.md and NAME.html; each appears whole or stays as it was. Numbers that are not finite
    become null. Raises UsageError where one is there that kdcompress did not write."""
    document = finite(document)
    texts = {
        "json": json.dumps(document, indent=1, allow_nan=False) + "\n",
        "md": markdown(document),
        "html": html(document),
    }
    ours = Ours(folder)
    ours.check(f"{name}.{kind}" for kind in texts)
    return [ours.write(f"{name}.{kind}", text) for kind, text in texts.items()]


def load_report(path: Path) -> dict[str, Any]:
    """The document in a report.json, or in that of a run folder."""
    if path.is_dir():
        path = path / "report.json"
    document = read_json(path, "The report cannot be read.", "`kdcompress run` writes it")
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise UsageError("The file is not a kdcompress report.", where=path, allowed="an object with a list of `rows`")
    if "metric" not in document:
        document = _renamed(document)
    return {**document, "rows": [_row(row, path) for row in document["rows"]]}


def _renamed(value: Any) -> Any:
    """A report from before there were tasks, in today's words. Its recipe stays as it was given."""
    if isinstance(value, dict):
        return {FORMER.get(k, k): part if k == "recipe" else _renamed(part) for k, part in value.items()}
    return [_renamed(part) for part in value] if isinstance(value, list) else value


def _row(row: Any, path: Path) -> dict[str, Any]:
    """With every field that a Row has. Raises UsageError where it is none, or its file is not one of the folder's."""
    found = {**NO_ROW, **row} if isinstance(row, dict) else {}
    texts = [found.get(key) for key in ("role", "format", "precision", "status", "target", "why", "next", "sha256")]
    if not isinstance(found.get("name"), str) or not all(text is None or isinstance(text, str) for text in texts):
        raise UsageError("A row of the report is damaged.", where=path, got=reprlib.repr(row), hint="run again")
    if found["file"] is not None and not inside(found["file"]):
        raise UsageError("A row of the report names a file outside its folder.", where=path, got=found["file"])
    return found


def finite(value: Any) -> Any:
    """The same with null for numbers that are not finite: JSON has none."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
