"""The report on a terminal: one table of all artefacts, and two lines that say what it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdcompress.report import deciding, present, sure
from kdcompress.report.gates import in_words

STYLES = {"measured": "green", "built, not run": "cyan", "skipped": "yellow", "failed": "bold red"}
# What the narrowest terminals still show; each entry needs at least so many columns to be shown too.
WIDTHS = {"p90": 92, "agreement": 104, "precision": 70, "size": 60, "drop": 50, "behind": 180}
INTERVALS = 180  # columns, from which on those of scores are in the table
HEADERS = {"agreement": "agree %", "precision": "type", "median": "ms"}


def print_report(document: Mapping[str, Any], console: Console) -> None:
    """Prints table, reasons, gates, advice, summary and warnings; as wide as the console is."""
    if document.get("rows"):
        console.print(artefacts(document, console.width))
    for note in present.notes(document):
        text = Text(f"{note['name']} ", style="bold")
        text.append(note["status"], STYLES.get(note["status"], ""))
        text.append(f": {note['why']}" if note["why"] else "")
        if note["next"]:
            text.append(f"\n  next: {note['next']}", "dim")
        console.print(text)
    for line in [*(sure.lines(document) if console.width < INTERVALS else []), *sure.doubts(document)]:
        console.print(Text(line))
    for line in deciding.lines(document):
        console.print(Text(line))
    for gate in in_words(document):
        text = Text(f"{gate['verdict']}: ", style="green" if gate["met"] else "bold red")
        doubt = f": {gate['doubt']}" if gate["doubt"] else ""
        text.append(f"{gate['what']} {gate['value']} ({gate['limit']}){doubt}", "default not bold")
        console.print(text)
    for line in document.get("advice") or []:
        console.print(Text(f"note: {line}", "yellow"))
    console.print()
    for line in [*present.sentences(document), *deciding.thresholds(document)]:
        console.print(Text(line, "bold"))
    for line in present.warnings(document):
        console.print(Text(f"warning: {line}", "bold yellow"))


def artefacts(document: Mapping[str, Any], width: int) -> Table:
    """The table of all artefacts in at most ``width`` columns."""
    titles = present.columns(document, short=width < 120)
    shown = [column for column in titles if width >= WIDTHS.get(column, 0)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if width >= 100 else 0, 0, 0))
    for column in shown:
        header = HEADERS.get(column, titles[column]) if width < 120 else titles[column]
        table.add_column(
            header,
            justify="right" if column in present.NUMBERS else "left",
            no_wrap=column not in ("status", "speed") and (column != "name" or width >= 76),
            overflow="fold",
        )
    for row in document.get("rows") or []:
        cells = present.cells(row)
        style = STYLES.get(cells["status"], "")
        if width < 92:
            cells["speed"] = cells["speed"].split(" (")[0] if width < 80 else cells["speed"]
        if width < INTERVALS:
            cells |= {column: cells[column].split(" (")[0] for column in ("score", "drop")}
        table.add_row(*(Text(cells[column], style if column == "status" else "") for column in shown))
    return table


def table(titles: Iterable[str], left: Iterable[str], no_wrap: Iterable[str] = ()) -> Table:
    """An empty one with these columns: those in ``left`` for words, the others for numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        justify: Any = "left" if title in left else "right"
        made.add_column(title, justify=justify, overflow="fold", no_wrap=title in no_wrap)
    return made
