"""What works on a machine, on a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# What a row's "here" says -> its mark and style.
STATES = {
    "builds and runs": ("✓", "green"),
    "yes": ("✓", "green"),
    "builds": ("~", "yellow"),
    "no": ("✗", "red"),
    "yours": ("·", ""),
}


def print_doctor(facts: Mapping[str, Any], console: Console) -> None:
    """Prints what ``pipelines.doctor`` found, without what is not known."""
    for line in machine(facts):
        console.print(Text(line))
    sections = {
        "Formats": (facts["formats"], "format", _targets),
        "Devices for --device": (facts["devices"], "device", lambda row: str(row["for"])),
        "Data": (facts["data"], "data", lambda row: str(row["from"])),
    }
    for title, (rows, key, about) in sections.items():
        console.print(Text(f"\n{title}", "bold"))
        console.print(states(rows, key, about, console))
    console.print(Text("\nPackages", "bold"))
    console.print(Text(", ".join(f"{name} {version}" for name, version in sorted(facts["packages"].items()))))


def machine(facts: Mapping[str, Any]) -> list[str]:
    """A few lines: processor, memory, system, what trains."""
    here = facts["machine"]
    cores = [f"{here[key]} {key}" for key in ("cores", "threads") if here.get(key)]
    gpu = here.get("gpu") or {}
    known = {
        "CPU": ", ".join([here["cpu"], *cores]),
        "Instructions": ", ".join(here["isa"]),
        "Memory": f"{here['memory_gib']} GiB, {here['memory_available_gib']} GiB free",
        "System": f"{here['os']}, {here['architecture']}",
        "GPU": ", ".join(f"{key} {gpu[key]}" for key in ("capability", "cuda") if gpu.get(key)),
        "Trains on": ", ".join(facts["training device"]),
        "Versions": f"kdcompress {facts['kdcompress']}, Python {facts['python']}",
    }
    return [f"{name + ':':<14}{value}" for name, value in known.items() if value]


def states(rows: Sequence[Mapping[str, Any]], key: str, about: Any, console: Console) -> Table:
    """Name, state and what it is about, with what to do next below. Marks only where the terminal has them."""
    marks = console.is_terminal and console.encoding.lower().startswith("utf")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        mark, style = STATES[row["here"]]
        state = Text(f"{mark} {row['here']}" if marks else row["here"], style)
        table.add_row(str(row[key]), state, Text("\n").join(_lines(about(row), row)))
    return table


def _lines(about: str, row: Mapping[str, Any]) -> Iterable[Text]:
    yield Text(about)
    for title, key in (("", "why"), ("next: ", "next")):
        if row.get(key):
            yield Text(f"{title}{row[key]}", "dim")


def _targets(row: Mapping[str, Any]) -> str:
    return ", ".join(row["targets"])
