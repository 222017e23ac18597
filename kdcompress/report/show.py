"""What a command gives, on stdout: lines, a table, or one JSON document. Where its files are is said on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from kdcompress.console import out, say
from kdcompress.errors import shown


def echo(text: object) -> None:
    """Prints a line as it is, however wide the terminal."""
    click.echo(shown(str(text)), file=out.file)


def print_json(value: Any) -> None:
    """Numbers that are not finite become null."""
    try:
        text = json.dumps(value, indent=1, default=str, allow_nan=False)
    except ValueError:
        from kdcompress.report.write import finite

        text = json.dumps(finite(value), indent=1, default=str)
    click.echo(text.replace("\x7f", "\\u007f"), file=out.file)  # all others that are not ASCII are escapes already


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(facts)
    for line in lines(facts):
        echo(line)


def lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """ "key: value" of each fact; what a mapping or a list of mappings holds is indented below its key."""
    found = []
    for key, item in ((_inline(key), item) for key, item in facts.items()):
        if isinstance(item, dict):
            found += [f"{indent}{key}:", *lines(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            found.append(f"{indent}{key}:")
            found += [f"{indent}  " + _inline(", ".join(f"{k} {v}" for k, v in entry.items())) for entry in item]
        else:
            found.append(f"{indent}{key}: {_inline(', '.join(map(str, item)) if isinstance(item, list) else item)}")
    return found


def _inline(value: object) -> str:
    """On one line: what a file says cannot look like a line of ours."""
    return str(value).replace("\n", "\\n")


def print_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """A column for each key of ``columns``, under its title or, where that is empty, the key."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, title in columns.items():
        table.add_column(title or key, overflow="fold")
    for row in rows:
        cells = [row.get(key) for key in columns]
        table.add_row(*(f"{c:.3f}" if isinstance(c, float) else "-" if c is None else str(c) for c in cells))
    out.print(table)


def print_taps(facts: Mapping[str, Any], as_json: bool) -> None:
    """What a dry run saw of a network, as ``models.taps.inspection`` has it."""
    if as_json:
        return print_json(facts)
    rows = [
        {
            **call,
            "path": f"{call['path']} #{call['call']}" if call["call"] > 1 else call["path"],
            "map": "x".join(map(str, call["map"])) if call["map"] else None,
            "reduction": f"{call['reduction']:g}" if call["map"] else None,
        }
        for call in facts["calls"]
    ]
    for line in lines({**facts, "input": "x".join(map(str, facts["input"])), "calls": len(rows)}):
        echo(line)
    print_table(rows, {key: key for key in ("path", "kind", "map", "reduction", "tap", "why")})


def print_steps(states: Sequence[tuple[str, str]], as_json: bool) -> None:
    """Each step and its state."""
    if as_json:
        return print_json([{"step": name, "state": state} for name, state in states])
    for name, state in states:
        echo(f"{state:<8} {name}")


def show_and_write(document: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """A run's report, and then its files in ``folder``. Raises UsageError where one is there that kdcompress did not
    write; the report has been shown then."""
    from kdcompress.report.terminal import print_report
    from kdcompress.report.write import write_report

    if as_json:
        print_json(document)
    else:
        print_report(document, out)
    written = write_report(document, folder)
    if not as_json:
        say("Written: " + ", ".join(map(str, written)))
