"""What int8 costs, layer by layer: tables on a terminal, and a page with charts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from kdcompress.artifact import write_text
from kdcompress.errors import UsageError, some
from kdcompress.report import charts, figures, sure, terminal
from kdcompress.report.html import render

LAYERS = {"layer": "in int8 alone", "lost": "points lost", "snr": "SNR dB", "macs": "MACs %", "kind": "kind"}
CURVE = {"int8": "layers in int8", "share": "of layers %", "macs": "of MACs %", "score": "", "lost": "points lost"}
POINTS = {
    "label": "layers in float",
    "float": "in float",
    "macs": "MACs in int8 %",
    "score": "",  # the metric's name
    "lost": "points lost",
    "time": "time / fp32",
    "verdict": "",
    "front": "front",
}
WORDS = ("layer", "kind", "label", "verdict", "front")
BUSY = 10  # per cent
WITH_INTERVALS = ("score", "lost", "time")
NOTE = (
    "All figures are of {images} validation images. Brackets hold 95 % intervals. SNR: power of the fp32 "
    "file's outputs to that of the difference; the more, the better."
)
FRONT = (
    "front: no other file is faster and scores as high. Times are those of pairs measured in turns on this machine; of "
    "files that were not timed together they may differ by more than their intervals."
)


def check_page(path: Path | None) -> None:
    """Raises UsageError for a page that cannot be written."""
    if path is None:
        return
    if path.suffix != ".html":
        raise UsageError("A page is written into an .html file.", where="--html", got=path)
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir():
        what = "It is a folder." if path.is_dir() else "There is no such folder to write to."
        raise UsageError(what, where="--html", got=path)
    if not os.access(folder, os.W_OK):
        raise UsageError("Its folder cannot be written to.", where="--html", got=path)


def written(document: Mapping[str, Any], page: Path | None) -> Iterator[Path]:
    """Writes the page, where one is asked for; it, and the targets that a search wrote."""
    if page is not None:
        yield write_text(page, html(document))
    for each in document["targets"]:
        if file := (each.get("search") or {}).get("file"):
            yield Path(file)


def print_sensitivity(document: Mapping[str, Any], console: Console) -> None:
    for each in document["targets"]:
        console.print(Text(title(document, each), "bold"))
        for columns, rows in tables(document, each):
            printed = terminal.table(columns.values(), left=[columns[key] for key in WORDS if key in columns])
            for row in rows:
                printed.add_row(*(Text(row[key], "bold green" if row.get("chosen") else "") for key in columns))
            console.print(printed)
        for line in lines(each):
            console.print(Text(line))


def title(document: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    fp32 = found["fp32"]
    said = sure.score({"score": fp32["score"], "score_low": fp32["low"], "score_high": fp32["high"]})
    return f"{found['target']['name']}: the student's fp32 file has {document['metric']['name']} {said} %"


def lines(found: Mapping[str, Any]) -> list[str]:
    """What stands below the tables."""
    images, whole = found["images"], found["validation_images"]
    said = [NOTE.format(images=f"the first {images:,} of {whole:,}" if images < whole else f"{whole:,}")]
    if images < whole:
        said.append("A run's ladder takes no ranking of so few. For one that it takes, leave out --images.")
    if search := found.get("search"):
        said.append(FRONT)
        if search["other_cpu_percent"] >= BUSY:
            share = f"{search['other_cpu_percent']:.0f} %"
            said.append(f"While files were timed, other programs took up to {share} of the processors' time.")
        if search["walked"] < search["moves"]:
            said.append(
                f"{search['walked']} of {search['moves']} parts of the network were tried in the time that was given; "
                "the same command goes on."
            )
        said.append(search["said"])
        if search["float"]:
            said.append(f"In float: {some(search['float'], 12)}.")
    return said


def tables(document: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[dict[str, str], list[dict[str, str]]]]:
    """(columns, rows) of the layers, of the curve, and of the search where there was one."""
    score = f"{document['metric']['name']} {document['metric']['unit']}"
    whole = sum(row["macs"] for row in found["layers"]) or 1
    layers = [
        {
            "layer": row["layer"],
            "kind": row["kind"],
            "macs": f"{100 * row['macs'] / whole:.1f}",
            "lost": row["why"] or sure.drop(row["drop"], row["lost"]),
            "snr": figures.NONE if row["snr_db"] is None else f"{row['snr_db']:.1f}",
        }
        for row in found["layers"]
    ]
    curve = [_point(row) for row in found["curve"]]
    made = [(LAYERS, layers), ({**CURVE, "score": score}, curve)]
    if search := found.get("search"):
        made.append(({**POINTS, "score": score}, [_point(row) for row in search["points"]]))
    return made


def _point(row: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a file with some layers in int8."""
    cells = {
        "int8": str(row.get("int8", "")),
        "share": f"{100 * row['share']:.0f}",
        "macs": f"{100 * row['macs_share']:.0f}",
        "score": row.get("why") or sure.score({**row, "score_low": row["low"], "score_high": row["high"]}),
        "lost": figures.NONE if row.get("why") else sure.drop(row["drop"], row["lost"]),
    }
    if ratio := row.get("ratio"):
        interval = f" ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio["low"] != ratio["high"] else ""
        cells |= {
            "label": row["label"],
            "float": str(len(row["float"])),
            "time": f"{ratio['median']:.2f}{interval}",
            "verdict": ratio["verdict"],
            "front": "chosen" if row["chosen"] else "*" if row["front"] else "",
            "chosen": "chosen" if row["chosen"] else "",
        }
    return cells


def html(document: Mapping[str, Any]) -> str:
    metric, parts = f"{document['metric']['name']}, {document['metric']['unit']}", []
    for found in document["targets"]:
        shown = tables(document, found)
        parts.append(
            {
                "name": found["target"]["name"],
                "title": title(document, found),
                "lines": lines(found),
                "layers": shown[0],
                "curve": shown[1],
                "points": shown[2] if len(shown) > 2 else None,
                "chart": _curve(found, metric),
                "front": _front(found, metric),
            }
        )
    return render("sensitivity.html", document=document, parts=parts, words=WORDS, intervals=WITH_INTERVALS)


def _curve(found: Mapping[str, Any], metric: str) -> Any:
    """The score against the share in int8; the intervals are drawn once."""
    points = [row for row in found["curve"] if row.get("why") is None]
    by_layers = [(100 * row["share"],) * 3 + _heights(row) for row in points]
    by_macs = [(100 * row["macs_share"],) * 3 + (row["score"],) * 3 for row in points]
    series = [("of layers", by_layers, "s0"), ("of multiply-accumulates", by_macs, "s1")]
    return charts.measured(series, "share in int8, %", metric, f"{metric} with more and more in int8")


def _front(found: Mapping[str, Any], metric: str) -> Any:
    """The score against the time of the files that were timed."""
    if not (search := found.get("search")):
        return None
    kinds = [("chosen", "chosen", "s2"), ("on the front", "front", "s0"), ("others", "", "s3")]
    series, left = [], list(search["points"])
    for label, key, css in kinds:
        these = [row for row in left if not key or row[key]]
        left = [row for row in left if row not in these]
        times = [(row["ratio"]["median"], row["ratio"]["low"], row["ratio"]["high"]) for row in these]
        series.append((label, [time + _heights(row) for time, row in zip(times, these, strict=True)], css))
    return charts.measured(series, "latency / fp32's", metric, f"{metric} against latency", joined=False)


def _heights(row: Mapping[str, Any]) -> tuple[float, float, float]:
    score = row["score"]
    return score, score if row["low"] is None else row["low"], score if row["high"] is None else row["high"]
