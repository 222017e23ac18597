"""The report's files: report.json with every sample, report.md and report.html."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdcompress.errors import UsageError
from kdcompress.ours import Ours
from kdcompress.report.html import html
from kdcompress.report.markdown import markdown


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
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            "The report cannot be read.", where=path, got=error.strerror, hint="`kdcompress run` writes it"
        ) from error
    except ValueError as error:
        raise UsageError("The report is not valid JSON.", where=path, got=error, hint="run again") from error
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise UsageError("The file is not a kdcompress report.", where=path, allowed="an object with a list of `rows`")
    return document


def finite(value: Any) -> Any:
    """The same with null for numbers that are not finite: JSON has none."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
