"""The report as Markdown, for a pull request or a model card."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdcompress.report import facts, present


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report but its samples and curves."""
    parts = [f"# {_text(document.get('name') or 'kdcompress report')}", _lines(present.sentences(document))]
    gates = present.gates(document)
    if gates:
        parts += ["## Limits", table(["limit", "asked", "value", "met"],
                                    [[g["what"], g["limit"], g["value"], g["verdict"]] for g in gates])]  # fmt: skip
    rows = document.get("rows") or []
    if rows:
        body = [list(present.cells(row).values()) for row in rows]
        numbers = [i for i, column in enumerate(present.COLUMNS) if column in present.NUMBERS]
        parts += ["## Artefacts", table(list(present.COLUMNS.values()), body, numbers), present.column_notes(document)]
    notes = present.notes(document)
    if notes:
        lines = []
        for note in notes:
            why, todo = (f": {note['why']}" if note["why"] else ""), (f"; next: {note['next']}" if note["next"] else "")
            lines.append(f"{note['name']} ({note['status']}){why}{todo}")
        parts.append(_lines(lines))
    for name, rungs in present.ladders(document):
        parts += [f"## Quantisation ladder of {_text(name)}", table(present.LADDER, rungs, [2, 3, 4, 5])]
    if document.get("advice"):
        parts += ["## Worth knowing", _lines(document["advice"])]
    for training in document.get("training") or []:
        title = f"{training.get('role') or ''} training".strip().capitalize()
        parts += [f"## {_text(title)}", table(["what", "value"], facts.training(training).items())]
    changes = present.confusion_changes(document)
    if changes and changes["pairs"]:
        keys = ("true", "predicted", "teacher", "student", "change", "verdict")
        body = [[str(pair[key]) for key in keys] for pair in changes["pairs"]]
        parts += ["## Confusions that changed most", "In test images.", table(keys, body, [2, 3, 4])]
    stages = document.get("stages") or []
    if stages:
        body = [[s.get("name"), "reused" if s.get("reused") else present.duration(s.get("seconds")),
                 (s.get("key") or "")[:12]] for s in stages]  # fmt: skip
        parts += ["## Stages", table(["stage", "time", "key"], body)]
    hashes = [[row.get("file"), row["sha256"]] for row in rows if row.get("sha256")]
    if hashes:
        parts += ["## Files", table(["file", "SHA-256"], hashes)]
    parts += ["## Machine and versions", table(["what", "value"], facts.machine(document).items())]
    if document.get("command"):
        parts += ["## To reproduce", _fence(document["command"], "sh")]
    if document.get("recipe_yaml"):
        parts.append(_fence(document["recipe_yaml"], "yaml"))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], body: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    """A Markdown table; the columns ``numbers`` are aligned right."""
    lines = [list(map(_text, head)), ["--:" if i in numbers else "---" for i in range(len(head))]]
    lines += [[_text(cell) for cell in line] for line in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    """A value on one line, in which nothing is Markdown or HTML."""
    text = html.escape(" ".join(str(present.NONE if value is None else value).split()), quote=False)
    for mark in "\\|`*_[]":
        text = text.replace(mark, "\\" + mark)
    return text


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _fence(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
