"""A plan on a terminal: what each candidate can do, how fast, and which budgets it meets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from kdcompress.report import terminal
from kdcompress.report.figures import NONE, count, duration, significant, size


def print_plan(document: Mapping[str, Any], console: Console, most: int) -> None:
    """Prints the candidates that were built, of those inside the budgets at most ``most``, and why others were not."""
    found = [each for each in document["candidates"] if each["bytes"]]
    inside = sorted((each for each in found if each["inside"]), key=lambda each: -each["macs"])
    others = sorted((each for each in found if not each["inside"]), key=lambda each: -each["macs"])
    titles = ("candidate", "MACs", "parameters", "size", "ms (95 %)", "front", "budgets")
    table = terminal.table(titles, left=("candidate", "front", "budgets"), no_wrap=("candidate",))
    targets = [target["name"] for target in document["targets"]]
    for each in (*inside[:most], *others):
        proposed = each["name"] == document["proposed"]
        verdict = "proposed" if proposed else each["out"] or "; ".join(each["missed"]) or "inside"
        style = "bold green" if proposed else "green" if each["inside"] else "dim"
        sizes = "\n".join(size(each["bytes"].get(name)) for name in targets)
        latencies = "\n".join(latency(each["latency"].get(name)) for name in targets)
        cells = (each["name"], count(each["macs"]), count(each["parameters"]), sizes, latencies)
        table.add_row(*(Text(cell) for cell in cells), Text("*" if each["front"] else ""), Text(verdict, style))
    if found:
        where = "" if document["device"] == "local" else f", on {document['device'].partition('?')[0]}"
        console.print(f"size and latency: {', '.join(targets)}{where}", style="dim", highlight=False)
        console.print(table)
    if found and (after := document["metric"]["after"]):
        said = (
            f"Latencies are those of the files alone, without {after}, as in a run's budgets. A run's report says both."
        )
        console.print(Text(said, "dim"))
    if len(inside) > most:
        console.print(Text(f"{len(inside) - most} more are inside the budgets: --top {len(inside)} shows them", "dim"))
    reasons: dict[str, list[str]] = {}
    for each in document["candidates"]:
        if not each["bytes"]:
            reasons.setdefault(each["out"], []).append(each["name"])
    listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    if listed:
        console.print(Text(f"Not timed: {listed}", "dim"))
    for line in document["advice"]:
        console.print(Text(f"note: {line}", "yellow"))
    console.print(Text(summary(document), "bold"))


def latency(found: Mapping[str, float] | None) -> str:
    """ "0.310 (0.305–0.318)", ms."""
    if not found:
        return NONE
    low, high = significant(found["low"]), significant(found["high"])
    return significant(found["ms"]) + (f" ({low}–{high})" if low != high else "")


def summary(document: Mapping[str, Any]) -> str:
    """What is proposed, against the recipe's own student, and how long planning took."""
    seconds, own = document["seconds"], document["candidates"][0]
    took = f"Planning took {duration(seconds['building'] + seconds['measuring'])}"
    took += f" (building {duration(seconds['building'])}, timing {duration(seconds['measuring'])})."
    best = next((each for each in document["candidates"] if each["name"] == document["proposed"]), None)
    if best is None:
        return took
    said = f"Proposed: {best['name']}, {count(best['macs'])} multiply-accumulates"
    if best is own:
        return f"{said}. It is the recipe's own student: inside the budgets none has more capacity. {took}"
    missed = f", which is not inside: {own['out'] or '; '.join(own['missed'])}" if not own["inside"] else ""
    share = f" ({best['macs'] / own['macs']:.2g} times those of {own['name']}{missed})" if own["macs"] else ""
    return f"{said}{share}. {took}"
