"""What `kdcompress compare` found: one table, and a plot of every training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from kdcompress.report import charts, figures, present, terminal
from kdcompress.report.html import render
from kdcompress.report.markdown import fence, plain, table
from kdcompress.report.write import write_document

COLUMNS = {
    "label": "method",
    "n": "n",
    "best": "",  # the metric's name
    "last": "last epoch %",
    "gain": "gain [95 %]",
    "published": "published %",
    "agreement": "agreement %",
    "calibration": "ECE %",
    "images": "images seen",
    "passes": "teacher passes",
    "step": "time per iteration",
}

NOTES = {  # by the column that they are on
    "best": "Test {metric}: of the weights that validation chose, mean ± standard deviation over the seeds.",
    "gain": "Gain: difference to the baseline of the same seed, with a 95 % interval (Student's t).",
    "calibration": "ECE: expected calibration error, 15 bins.",
    "step": "Time of an iteration: divided by kd's. Other programs that ran at the time slow it down.",
    "passes": "Teacher passes: images that the teacher had to compute. Answers that an earlier training kept are "
    "read and not counted. With train.teacher_cache=off all passes are counted and timed.",
}


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    failed = f" ({row['failed']} failed)" if row.get("failed") else ""
    return {
        "label": row["label"],
        "n": f"{row['n']}{failed}",
        "best": spread(row, "test_best"),
        "last": spread(row, "test_last"),
        "gain": gain(row),
        "published": figures.fixed(row.get("published")),
        "agreement": figures.fixed(row.get("agreement")),
        "calibration": figures.fixed(row.get("calibration_error")),
        "images": f"{row['images_seen']:,}" if row.get("images_seen") else figures.NONE,
        "passes": f"{row['teacher_passes']:,}" if row.get("teacher_passes") is not None else figures.NONE,
        "step": f"{row['step']:.2f}" if row.get("step") else figures.NONE,
    }


def spread(row: Mapping[str, Any], key: str) -> str:
    if row.get(key) is None:
        return figures.NONE
    sd = row.get(f"{key}_sd")
    return f"{row[key]:.2f}" + (f" ± {sd:.2f}" if sd is not None else "")


def gain(row: Mapping[str, Any]) -> str:
    if row.get("gain") is None:
        return figures.NONE
    text = f"{row['gain']:+.2f}"
    if row.get("gain_low") is not None:
        text += f" [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]"
    return text.replace("-", "−")


def columns(document: Mapping[str, Any]) -> dict[str, str]:
    """The columns that have something in them."""
    rows, metric = [cells(row) for row in document["summary"]], present.metric(document)
    titles = COLUMNS | {"best": f"{metric['name']} {metric['unit']}"}
    return {key: title for key, title in titles.items() if any(row[key] != figures.NONE for row in rows)}


def markdown(document: Mapping[str, Any]) -> str:
    shown = columns(document)
    body = [[cells(row)[key] for key in shown] for row in document["summary"]]
    parts = [
        f"# {plain(document['name'])}",
        plain(notes(document)),
        table(list(shown.values()), body, range(1, len(shown))),
    ]
    parts += [fence(document["command"], "sh")] if document.get("command") else []
    return "\n\n".join(parts) + "\n"


def notes(document: Mapping[str, Any]) -> str:
    teacher = document.get("teacher")
    first = f"Teacher {teacher['model']}: {teacher['test_best']:.2f} %. " if teacher else ""
    told = " ".join(note for column, note in NOTES.items() if column in columns(document))
    return first + told.format(metric=present.metric(document)["name"])


def html(document: Mapping[str, Any]) -> str:
    metric, scores = present.metric(document)["name"], dict[str, list[float]]()
    for trial in document["trials"]:
        if "error" not in trial:
            scores.setdefault(trial["label"], []).append(trial["test_best"])
    ranked = sorted(scores.items(), key=lambda item: -sum(item[1]) / len(item[1]))
    return render(
        "comparison.html",
        document=document,
        columns=columns(document),
        rows=[cells(row) for row in document["summary"]],
        notes=notes(document),
        plot=charts.spread(ranked, f"test {metric}, %", f"Test {metric} of every training, by method"),
        failures=[trial for trial in document["trials"] if "error" in trial],
    )


def print_comparison(document: Mapping[str, Any], console: Console) -> None:
    shown = columns(document)
    if console.width < 130:
        shown = {key: title for key, title in shown.items() if key not in ("images", "passes", "calibration", "last")}
    printed = terminal.table(shown.values(), left=(shown["label"],))
    for row in document["summary"]:
        printed.add_row(*(cells(row)[key] for key in shown))
    console.print(printed)
    for trial in document["trials"]:
        if "error" in trial:
            console.print(f"{trial['label']} seed {trial['seed']} failed: {trial['error']}", markup=False)


def write_comparison(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """compare.json with every training, compare.md and compare.html."""
    return write_document(document, folder, "compare", markdown, html)
