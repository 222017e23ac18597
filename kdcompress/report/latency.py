"""What `kdcompress bench` measured, and what became of it since: one table in each form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from kdcompress.artifact import write_text
from kdcompress.errors import UsageError, shown
from kdcompress.report import charts, facts, figures, terminal
from kdcompress.report.html import render
from kdcompress.report.markdown import fence, listed, table
from kdcompress.report.write import finite

COLUMNS = {
    "name": "artefact",
    "n": "n",
    "batch": "images",
    "median": "median ms",
    "p90": "p90 ms",
    "p95": "p95 ms",
    "p99": "p99 ms",
    "p99_9": "p99.9 ms",
    "throughput": "images/s",
    "cv": "variation",
    "load": "load ms",
    "first": "first call ms",
    "memory": "memory MiB",
    "device_memory": "GPU MiB",
    "energy": "mJ/query",
    "parity": "outputs off by",
    "ratio": "ratio [95 %]",
    "verdict": "verdict",
}
WIDE = ("load", "first", "memory", "p95", "cv")  # left out first where the terminal is narrow
STYLES = {"faster": "green", "slower": "yellow", "failed": "bold red"}
TAGS = {"faster": "met", "slower": "skipped", "failed": "failed"}  # classes of report.css
CHANGED = {"name": "artefact", "old": "before ms", "new": "now ms", "ratio": "ratio [95 %]", "by": "of"}
CHANGED |= {"verdict": "verdict"}


def cells(
    label: str, record: Mapping[str, Any], baseline: str | None, parity: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The text of a record in each of ``COLUMNS``. ``parity``: of its outputs there with those of this machine."""
    ms = {key: figures.significant(record.get(f"{key}_ms")) for key in ("median", "p90", "p95", "p99", "p99_9", "load")}
    offline = record.get("scenario") == "offline"
    joules = ((record.get("energy") or {}).get("joules_per_query") or {}).values()
    memory = record.get("load_rss_mib")
    return {
        "name": label,
        "n": str(record["n"]),
        "batch": str(record["batch"]) if record["batch"] != 1 or offline else figures.NONE,
        **ms,
        "throughput": figures.significant(record.get("images_per_second")) if offline else figures.NONE,
        "cv": figures.NONE if record.get("cv") is None else f"{record['cv']:.0%}",
        "first": figures.significant(record.get("first_call_ms")),
        "memory": figures.NONE if memory is None else f"{memory:.1f}",
        "device_memory": figures.NONE if not record.get("device_mib") else f"{record['device_mib']:.0f}",
        "energy": figures.significant(1e3 * sum(joules)) if joules else figures.NONE,
        "ratio": "1" if label == baseline else interval(record.get("ratio")),
        "verdict": "failed" if record.get("failed") else verdict(label, record, baseline),
        "parity": figures.NONE
        if parity is None
        else f"{parity['max_abs']:.1e}" + ("" if parity["passed"] else ", too far"),
    }


def verdict(label: str, record: Mapping[str, Any], baseline: str | None) -> str:
    if label == baseline:
        return "baseline"
    ratio = record.get("ratio") or {}
    return ratio.get("verdict") or figures.NONE


def interval(ratio: Mapping[str, Any] | None) -> str:
    """ "0.52 [0.50, 0.54]"; a ratio of latencies: below 1 is faster."""
    if not ratio or ratio.get("low") is None:
        return figures.NONE
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def rows(document: Mapping[str, Any]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The columns that have something in them, and the cells of every record."""
    parity, baseline = document.get("parity") or {}, document.get("baseline")
    found = [cells(label, record, baseline, parity.get(label)) for label, record in document["records"].items()]
    return {key: title for key, title in COLUMNS.items() if any(row[key] != figures.NONE for row in found)}, found


def sentences(document: Mapping[str, Any]) -> list[str]:
    """How it was measured, what is not exposed, what failed, and advice."""
    records = document["records"]
    first = next(iter(records.values()))
    subjects = "" if len(records) == 1 else ", in turns"
    overhead = first.get("overhead_us")
    said = [
        f"{document['scenario']} on {document['device']}, {document['threads']} thread(s), effort "
        f"{document['effort']}, inputs: {document['inputs']}{subjects}."
        + (f" Timing itself takes {overhead:.2f} microseconds per query." if overhead is not None else "")
    ]
    if first.get("scenario") == "cold-start":
        said.append(
            "Each query is a new process. Its time runs from before the import of the runtime to after the first "
            "answer. From the second process on, the files are in the system's cache."
        )
    if peak := max(record.get("peak_rss_mib") or 0 for record in records.values()):
        said.append(
            "Memory is what the runtime, the file and a query add to a new process, at its peak. The whole process, "
            f"with Python, had {peak:.0f} MiB at most."
        )
    sources = {(r["energy"]["source"], r["energy"].get("why")) for r in records.values() if r.get("energy")}
    said += [f"Energy: {source}" + (f" ({why})." if why else ".") for source, why in sorted(sources, key=str)]
    said += [f"{label} failed: {record['failed']}" for label, record in records.items() if record.get("failed")]
    for label, parity in (document.get("parity") or {}).items():
        if not parity.get("passed"):
            said.append(f"{label}: its outputs on the device differ from those on this machine: {parity.get('why')}")
    return [*said, *(document.get("notes") or []), *(document.get("advice") or [])]


def as_markdown(document: Mapping[str, Any]) -> str:
    shown, body = rows(document)
    cells = [[row[key] for key in shown] for row in body]
    parts = [
        "# kdcompress bench",
        table(list(shown.values()), cells, range(1, len(shown) - 1)),
        listed(sentences(document)),
        "## Machine",
        table(["what", "value"], facts.machine({**document, "packages": None}).items()),
    ]
    parts += [fence(document["command"], "sh")] if document.get("command") else []
    return "\n\n".join(parts) + "\n"


def as_csv(document: Mapping[str, Any]) -> str:
    """Every number of every record but the samples, unrounded; a line an artefact."""
    flat = []
    for label, record in document["records"].items():
        plain = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
        ratio = {f"ratio_{key}": value for key, value in (record.get("ratio") or {}).items()}
        flat.append({"label": label, **plain, **ratio})
    columns = list(dict.fromkeys(key for line in flat for key in line))
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in line.items()} for line in flat)
    return written.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula begins with an apostrophe; a number stays one."""
    if not isinstance(value, str):
        return value
    return ("'" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else "") + shown(value)


def as_json(document: Mapping[str, Any]) -> str:
    return json.dumps(finite(document), indent=1, allow_nan=False, default=str) + "\n"


def as_html(document: Mapping[str, Any]) -> str:
    shown, body = rows(document)
    samples = [(label, record["samples_ms"]) for label, record in document["records"].items() if record["n"] > 1]
    return render(
        "latency.html",
        document=document,
        columns=shown,
        rows=body,
        nothing=figures.NONE,
        tags=TAGS,
        sentences=sentences(document),
        distribution=charts.ridges(samples, "Distribution of latencies"),
        machine=facts.machine({**document, "packages": None}),
    )


FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "json": as_json,
    "html": as_html,
}

BEGINS = {"md": "# kdcompress bench", "csv": "label,", "json": '"kdcompress"', "html": "kdcompress bench"}


def export_path(asked: str) -> Path:
    """The file that ``--export`` names: a path whose end tells the format, or a format alone for bench.FORMAT here.

    Raises UsageError for another format and for a place where nothing can be written.
    """
    path = Path(f"bench.{asked}") if asked in FORMATS else Path(asked)
    if path.suffix.lstrip(".") not in FORMATS:
        raise UsageError(
            "The measurement cannot be written as this kind of file.",
            where="--export",
            got=asked,
            allowed=", ".join(FORMATS),
        )
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError("There is no such folder to write to.", where="--export", got=path)
    if asked in FORMATS and path.exists() and BEGINS[asked] not in path.read_text(errors="replace")[:1000]:
        hint = f"move it; or overwrite it with --export ./{path}"
        raise UsageError("The file exists and is not a measurement, so it is not overwritten.", where=path, hint=hint)
    return path


def export(document: Mapping[str, Any], path: Path) -> Path:
    return write_text(path, FORMATS[path.suffix.lstrip(".")](document))


def print_latency(document: Mapping[str, Any], console: Console) -> None:
    shown, body = rows(document)
    for key in WIDE:
        if sum(max(len(title), *(len(row[key]) for row in body)) + 2 for key, title in shown.items()) > console.width:
            shown.pop(key, None)
    printed = terminal.table(shown.values(), left=("artefact", "verdict"))
    for row in body:
        printed.add_row(*(Text(row[key], STYLES.get(row[key], "") if key == "verdict" else "") for key in shown))
    console.print(printed)


# Two sessions


def change_cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": row["name"],
        "old": figures.significant(row["old_ms"]),
        "new": figures.significant(row["new_ms"]),
        "ratio": interval({**row, "median": row["ratio"]}),
        "by": row["by"] or figures.NONE,
        "verdict": row["verdict"] + (f": {row['why']}" if row.get("why") else ""),
    }


def print_changes(found: Mapping[str, Any], console: Console) -> None:
    printed = terminal.table(CHANGED.values(), left=("artefact", "of", "verdict"))
    for row in found["rows"]:
        printed.add_row(*(Text(cell) for cell in change_cells(row).values()))
    console.print(printed)
