"""A file layer by layer on a terminal and as a page: tables, sentences and the strip of its layers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.text import Text

from kdcompress.artifact import write_text
from kdcompress.errors import UsageError, some
from kdcompress.report import facts, figures, strip, terminal
from kdcompress.report.html import render

COLUMNS = {
    "of": "layer",
    "kind": "runs as",
    "precision": "type",
    "shape": "output",
    "ms": "ms",
    "interval": "95 %",
    "share": "% of sum",
    "macs": "MACs",
    "rate": "GMAC/s",
    "of_peak": "% of peak",
    "snr": "SNR dB",
}
CHANGED = {
    "name": "layer",
    "precision": "types",
    "ms": "ms here",
    "other_ms": "ms there",
    "ratio": "ratio [95 %]",
    "verdict": "verdict",
}
WIDE = ("shape", "macs", "rate", "interval", "of_peak")  # left out first where the terminal is narrow
STYLES = {"faster": "green", "slower": "yellow"}
TAGS = {"faster": "met", "slower": "skipped"}  # classes of report.css
MOVES = "no arithmetic"


def cells(layer: Mapping[str, Any]) -> dict[str, str]:
    """The text of a layer in each of ``COLUMNS``."""
    return {
        "of": layer["of"] or layer["name"],
        "kind": layer["kind"],
        "precision": layer["precision"] or figures.NONE,
        "shape": "x".join(map(str, layer["shape"])) or figures.NONE,
        "ms": milliseconds(layer["median_ms"]),
        "interval": f"{milliseconds(layer['low_ms'])} to {milliseconds(layer['high_ms'])}",
        "share": f"{100 * layer['share']:.1f}",
        "macs": figures.count(layer["macs"]),
        "rate": figures.significant(layer["gmacs_per_s"]),
        "of_peak": figures.NONE if layer["of_peak"] is None else f"{100 * layer['of_peak']:.0f}",
        "snr": decibels(layer["snr_db"]),
    }


def milliseconds(value: float) -> str:
    """To a tenth of a microsecond, or three digits."""
    return f"{value:.4f}" if value < 0.1 else figures.significant(value)


def decibels(value: float | None) -> str:
    return figures.NONE if value is None else "exact" if math.isinf(value) else f"{value:.1f}"


def change_cells(row: Mapping[str, Any]) -> dict[str, str]:
    types = [row["precision"] or figures.NONE, row["other_precision"] or figures.NONE]
    return {
        "name": row["name"],
        "precision": types[0] if types[0] == types[1] else " / ".join(types),
        "ms": milliseconds(row["ms"]),
        "other_ms": milliseconds(row["other_ms"]),
        "ratio": f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
        "verdict": row["verdict"],
    }


def shown_columns(files: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Those that have something in them."""
    rows = [cells(layer) for file in files for layer in file["layers"]]
    return {key: title for key, title in COLUMNS.items() if any(row[key] != figures.NONE for row in rows)}


def of_file(file: Mapping[str, Any]) -> list[str]:
    """What it comes to, in sentences."""
    whole, ratio, count = file["whole"], file["sum_over_whole"], len(file["layers"])
    verb = "takes" if count == 1 else "take"
    said = [
        f"{PurePath(file['file']).name}: {figures.significant(whole['median_ms'])} ms by {file['runtime']} "
        f"{file['version']}, {_threads(file)}, n = {file['queries']:,}.",
        f"Its {counted(file['layers'])} {verb} {figures.significant(file['sum']['median_ms'])} ms with the profiler, "
        f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] times that. {_gap(file)}",
        _by_precision(file),
    ]
    if names := file["stayed_float"]:
        share = sum(layer["share"] for layer in file["layers"] if layer["of"] in names and layer["precision"] != "int8")
        noun = "convolution or matrix product" if len(names) == 1 else "convolutions or matrix products"
        said.append(f"{len(names)} {noun} stayed float ({100 * share:.0f} % of the sum): {some(names)}.")
    converted = [layer for layer in file["layers"] if not layer["made_of"]]
    if 0 < len(converted) < count:
        share = sum(layer["share"] for layer in converted)
        kinds = some(list(dict.fromkeys(layer["kind"] for layer in converted)))
        said.append(f"{counted(converted)} ({100 * share:.0f} % of the sum) of no node that is known: {kinds}.")
    if file["peak"]:
        named = [
            f"{key} {figures.significant(top['gmacs_per_s'])} GMAC/s (by {top['by']})"
            for key, top in file["peak"].items()
        ]
        said.append(f"This machine's peak, {_threads(file)}: {', '.join(named)}.")
    for fall in file["falls"][:3]:
        said.append(
            f"{fall['name']} parts from the parent: {fall['snr_db']:.1f} dB, and {fall['before_db']:.1f} dB before it."
        )
    return [*said, *file["notes"]]


def _threads(file: Mapping[str, Any]) -> str:
    return f"{file['threads']} thread" + ("" if file["threads"] == 1 else "s")


def _gap(file: Mapping[str, Any]) -> str:
    ratio = file["sum_over_whole"]
    apart = (file["sum"]["median_ms"] - file["whole"]["median_ms"]) / len(file["layers"])
    if ratio["low"] > 1 and apart > 0:
        return f"The profiler adds at least {1e3 * apart:.1f} microseconds to a layer, which the times hold."
    if ratio["high"] < 1:
        return "The rest is the runtime's work between layers."
    return ""


def counted(layers: Sequence[Any]) -> str:
    return f"{len(layers)} layer" + ("" if len(layers) == 1 else "s")


def _by_precision(file: Mapping[str, Any]) -> str:
    parts = []
    for total in file["by_precision"]:
        name = total["precision"] or MOVES
        macs = f", {100 * total['macs_share']:.0f} % of the multiply-accumulates" if total["macs_share"] else ""
        parts.append(f"{name} {100 * total['share']:.0f} % of the sum{macs}")
    return "By type: " + "; ".join(parts) + "."


def of_comparison(document: Mapping[str, Any]) -> list[str]:
    """What the first file does faster or slower than the other, in sentences."""
    found = document["comparison"]
    if not found:
        return []
    names = [PurePath(file["file"]).name for file in document["files"]]
    whole = found["whole"]
    said = [
        f"{names[0]} takes {whole['ratio']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}] times as long as {names[1]}: "
        f"{whole['verdict']}."
    ]
    for word in ("faster", "slower", "no difference shown"):
        those = [group for group in found["groups"] if group["verdict"] == word]
        if those:
            saved = sum(group["saved_ms"] for group in those)
            change = "" if word == "no difference shown" else f", {milliseconds(abs(saved))} ms in all"
            listed = some([group["name"] for group in sorted(those, key=lambda each: -abs(each["saved_ms"]))])
            said.append(f"{figures.capital(word)}: {len(those)} of {len(found['groups'])} layers{change}: {listed}.")
    for name, alone in zip(names, found["alone"], strict=True):
        if alone["layers"]:
            took = milliseconds(alone["ms"])
            said.append(f"Only in {name}: {counted(alone['layers'])}, {took} ms: {some(alone['layers'])}.")
    if not found["groups"]:
        said.append("No layer of the two is known to be made of the same nodes: give the --parent of both.")
    return said


def print_layers(document: Mapping[str, Any], console: Console) -> None:
    """The table of each file and what it comes to; the changes last."""
    for file in document["files"]:
        columns, body = shown_columns([file]), [cells(layer) for layer in file["layers"]]
        for key in WIDE:
            if _width(columns, body) > console.width:
                columns.pop(key, None)
        printed = terminal.table(columns.values(), left=[COLUMNS[key] for key in ("of", "kind", "precision")])
        for row in body:
            printed.add_row(*(Text(row[key]) for key in columns))
        console.print(printed)
        for line in of_file(file):
            console.print(Text(line))
    if document["comparison"]:
        printed = terminal.table(CHANGED.values(), left=[CHANGED[key] for key in ("name", "precision", "verdict")])
        for group in document["comparison"]["groups"]:
            row = change_cells(group)
            style = STYLES.get(row["verdict"], "")
            printed.add_row(*(Text(row[key], style if key == "verdict" else "") for key in CHANGED))
        console.print(printed)
        for line in of_comparison(document):
            console.print(Text(line))
    for line in document["notes"]:
        console.print(Text(line))


def _width(columns: Mapping[str, str], body: Sequence[Mapping[str, str]]) -> int:
    return sum(max(len(title), *(len(row[key]) for row in body)) + 2 for key, title in columns.items())


def as_html(document: Mapping[str, Any]) -> str:
    files = document["files"]
    longest = max(file["sum"]["median_ms"] for file in files)
    return render(
        "layers.html",
        document=document,
        title=" and ".join(PurePath(file["file"]).name for file in files),
        files=[
            {
                "name": PurePath(file["file"]).name,
                "strips": strip.rows(file, longest),
                "sentences": of_file(file),
                "rows": [(layer, cells(layer)) for layer in file["layers"]],
            }
            for file in files
        ],
        columns={key: title for key, title in shown_columns(files).items() if key != "interval"},  # it is beside ms
        left=("kind", "precision"),
        nothing=figures.NONE,
        changed=CHANGED,
        changes=[change_cells(group) for group in (document["comparison"] or {"groups": []})["groups"]],
        tags=TAGS,
        comparison=of_comparison(document),
        keys=strip.keys(files),
        machine=facts.machine({**document, "packages": None}),
    )


def page_path(path: Path | None) -> Path | None:
    """Raises UsageError for a path that a page cannot be written to."""
    if path is not None and path.suffix != ".html":
        raise UsageError("A page is an .html file.", where="--html", got=path, allowed="NAME.html")
    return writable(path, "--html")


def writable(path: Path | None, where: str) -> Path | None:
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise UsageError("There is no such folder to write to.", where=where, got=path)
    if path is not None and not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise UsageError("This cannot be written to.", where=where, got=path)
    return path


def write_html(document: Mapping[str, Any], path: Path) -> Path:
    return write_text(path, as_html(document))
