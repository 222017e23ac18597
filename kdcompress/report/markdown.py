"""The report as Markdown, for a pull request or a model card."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdcompress.errors import shown
from kdcompress.report import classes, deciding, facts, figures, lifelong, present, sure, tuning
from kdcompress.report.gates import in_words


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report but its samples and curves."""
    warnings = [f"Warning: {line}" for line in present.warnings(document)]
    parts = [
        f"# {plain(document.get('name') or 'kdcompress report')}",
        listed([*present.sentences(document), *deciding.thresholds(document), *warnings]),
    ]
    gates = in_words(document)
    if gates:
        parts += ["## Limits", table(["limit", "asked", "value", "met"],
                                    [[g["what"], g["limit"], g["value"], g["verdict"]] for g in gates])]  # fmt: skip
        parts.append(listed(f"{gate['what']}: {gate['doubt']}" for gate in gates if gate["doubt"]))
    rows = document.get("rows") or []
    if rows:
        columns = present.columns(document)
        body = [[present.cells(row)[column] for column in columns] for row in rows]
        numbers = [i for i, column in enumerate(columns) if column in present.NUMBERS]
        parts += ["## Artefacts", table(list(columns.values()), body, numbers)]
        parts += [plain(present.column_notes(document)), listed(sure.doubts(document))]
        parts.append(listed(present.answering(document)))
    notes = present.notes(document)
    if notes:
        lines = []
        for note in notes:
            why, todo = (f": {note['why']}" if note["why"] else ""), (f"; next: {note['next']}" if note["next"] else "")
            lines.append(f"{note['name']} ({note['status']}){why}{todo}")
        parts.append(listed(lines))
    for name, rungs in present.ladders(document):
        parts += [f"## Quantisation ladder of {plain(name)}", table(present.LADDER, rungs, [2, 3, 4, 5])]
    for what, titles, tried, said in tuning.tables(document, present.metric(document)["name"]):
        parts += [f"## {plain(what)}", plain(said), table(titles, tried, range(1, len(titles) - 1))]
    if lessons := lifelong.table(document):
        what, titles, body, said = lessons
        parts += [f"## {plain(what)}", plain(said), table(titles, body, range(len(titles) - 1))]
    if document.get("advice"):
        parts += ["## Worth knowing", listed(document["advice"])]
    metric = present.metric(document)["name"]
    trainings = [(training, facts.LIKENESS) for training in document.get("pretraining") or []]
    for training, judged in [*trainings, *((training, metric) for training in document.get("training") or [])]:
        title = figures.capital(f"{training.get('role') or ''} training".strip())
        parts += [f"## {plain(title)}", table(["what", "value"], facts.training(training, judged).items())]
    if found := classes.each_class(document):
        parts += ["## Each class", plain(found.what)]
        parts.append(table(found.titles, found.lines, range(1, len(found.titles))))
    if found := deciding.precision_and_recall(document):
        parts += ["## Precision and recall", plain(found.what)]
        parts.append(table(found.titles, found.lines, range(1, len(found.titles))))
    if calibration := deciding.calibration(document):
        parts += ["## Calibration", plain(deciding.DEFINITION), table(*calibration, range(1, len(calibration[0])))]
    if sizes := present.parts(document):
        told = present.metric(document)
        parts += [f"## {plain(told.get('parts_title'))}", plain(told.get("parts_note"))]
        parts.append(table(*sizes, range(1, len(sizes[0]))))
    changes = classes.confusion_changes(document)
    if changes and changes["pairs"]:
        head = ("true", "taken for", "teacher", "student", "change")
        keys = ("true", "predicted", "teacher", "student", "said")
        body = [[pair[key] for key in keys] for pair in changes["pairs"]]
        said = f"In {changes['of']}. {changes['note']}".strip()
        parts += ["## Confusions that changed most", plain(said), table(head, body, [2, 3, 4])]
    steps = document.get("steps") or []
    if steps:
        body = [[s.get("name"), "reused" if s.get("reused") else figures.duration(s.get("seconds")),
                 (s.get("key") or "")[:12]] for s in steps]  # fmt: skip
        parts += ["## Steps", table(["step", "time", "key"], body)]
    hashes = [[row.get("file"), row["sha256"]] for row in rows if row.get("sha256")]
    if hashes:
        parts += ["## Files", table(["file", "SHA-256"], hashes)]
    parts += ["## Machine and versions", table(["what", "value"], facts.machine(document).items())]
    if document.get("command"):
        parts += ["## To reproduce", fence(document["command"], "sh")]
    if document.get("recipe_yaml"):
        parts.append(fence(document["recipe_yaml"], "yaml"))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], body: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    """A Markdown table; the columns ``numbers`` are aligned right."""
    lines = [list(map(plain, head)), ["--:" if i in numbers else "---" for i in range(len(head))]]
    lines += [[plain(cell) for cell in line] for line in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(value: Any) -> str:
    """A value on one line, in which nothing is Markdown, a link or HTML, and no character steers a terminal."""
    text = html.escape(shown(" ".join(str(figures.NONE if value is None else value).split())), quote=False)
    for mark in "\\|`*_[]~#":
        text = text.replace(mark, "\\" + mark)
    return text.replace("://", ":&#47;/").replace("www.", "www&#46;")


def listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def fence(text: str, language: str) -> str:
    marks = "```"
    while marks in text:
        marks += "`"
    return f"{marks}{language}\n{shown(text.rstrip())}\n{marks}"
