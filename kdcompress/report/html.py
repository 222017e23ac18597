"""The report as one self-contained HTML file: no script, no font and no request to anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from kdcompress.bench.statistics import SUPPORT
from kdcompress.report import charts, classes, deciding, facts, figures, lifelong, pictures, present, sure, tuning
from kdcompress.report.gates import in_words


def render(template: str, **context: Any) -> str:
    """A page of this folder."""
    environment = Environment(
        loader=PackageLoader("kdcompress.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def html(document: Mapping[str, Any]) -> str:
    """The whole report but its samples."""
    rows = document.get("rows") or []
    metric = present.metric(document)["name"]
    changes = classes.confusion_changes(document)
    trainings = [_training(training, facts.LIKENESS) for training in document.get("pretraining") or []]
    trainings += [_training(training, metric) for training in document.get("training") or []]
    return render(
        "report.html",
        document=document,
        name=document.get("name") or "kdcompress report",
        present=present,
        figures=figures,
        metric=metric,
        columns=present.columns(document),
        head=present.headline(document),
        warnings=present.warnings(document),
        gates=in_words(document),
        rows=[(row, present.cells(row)) for row in rows],
        notes=present.notes(document),
        score_charts=_score_charts(rows, metric),
        distribution=_distribution(rows),
        trainings=trainings,
        training_facts=list(dict.fromkeys(fact for training in trainings for fact in training["facts"])),
        validation=_validation(document.get("training") or [], metric),
        each_class=classes.each_class(document),
        precision_and_recall=deciding.precision_and_recall(document),
        calibration=deciding.calibration(document),
        calibration_is=deciding.DEFINITION,
        reliability=deciding.reliability(document),
        thresholds=deciding.thresholds(document),
        changes=changes,
        change_map=changes and charts.change_map(changes["labels"], changes["change"], "Student minus teacher"),
        beside=present.beside(document),
        doubts=sure.doubts(document),
        answering=present.answering(document),
        after=present.metric(document).get("after"),
        curves=_curves(document),
        parts=present.parts(document),
        tables=[*tuning.tables(document, metric), *filter(None, [lifelong.table(document)])],
        pictures=pictures.groups(document),
        machine=facts.machine(document),
        files=[row for row in rows if row.get("sha256")],
    )


def _score_charts(rows: list[dict[str, Any]], metric: str) -> list[tuple[str, Markup]]:
    """The score against latency and against size, of the measured rows; only where there are two to compare."""
    measured = [row for row in rows if row.get("status") == "measured"]
    drawn = []
    for title, x_label, value in (
        (
            f"{figures.capital(metric)} against latency",
            "median latency, ms",
            lambda row: (row.get("latency") or {}).get("median_ms"),
        ),
        (
            f"{figures.capital(metric)} against size",
            "size, MB",
            lambda row: row["bytes"] / 1e6 if row.get("bytes") else None,
        ),
    ):
        points = [
            {"x": value(row), "y": row.get("score"), "label": row.get("name", ""), "role": row.get("role")}
            for row in measured
        ]
        points = [point for point in points if point["x"] and point["y"] is not None]
        chart = charts.scatter(points, x_label, f"{metric}, %", title) if len(points) > 1 else None
        if chart:
            drawn.append((title, chart))
    return drawn


def _distribution(rows: list[dict[str, Any]]) -> Markup | None:
    samples = [(row.get("name", ""), (row.get("latency") or {}).get("samples_ms") or []) for row in rows]
    return charts.ridges([row for row in samples if len(row[1]) >= SUPPORT[90]], "Distribution of latencies")


def _curves(document: Mapping[str, Any]) -> Markup | None:
    found, rows = document.get("curves") or {}, document.get("rows") or []
    of = {row.get("name"): row for row in rows}
    series = []
    for line in found.get("lines") or []:
        row = of.get(line["name"]) or {}
        series.append((line["name"], line["points"], "s2 dashed" if row.get("target") else row.get("role") or "s3"))
    return charts.curves(series, found.get("x") or "", found.get("y") or "", found.get("title") or "")


def _validation(trainings: list[dict[str, Any]], metric: str) -> Markup | None:
    colours = {"teacher": "teacher", "student": "student"}  # as in the other charts
    series = []
    for training in trainings:
        role = training.get("role") or ""
        series.append((role, _curve(training, "validation_score"), colours.get(role, "s2")))
    return charts.lines(series, "epoch", f"validation {metric}, %", f"Validation {metric} by epoch")


def _training(training: dict[str, Any], metric: str) -> dict[str, Any]:
    names = dict.fromkeys(name for epoch in training.get("history") or [] for name in epoch.get("terms") or {})
    series = [(name, _curve(training, name, terms=True), f"s{i % 6}") for i, name in enumerate(names)]
    if len(series) != 1:
        series.append(("sum", _curve(training, "loss"), "total"))
    role = training.get("role") or "network"
    return {
        "role": role,
        "facts": facts.training(training, metric),
        "losses": charts.lines(series, "epoch", "loss (log)", f"Loss terms of the {role} by epoch", log=True),
    }


def _curve(training: dict[str, Any], key: str, terms: bool = False) -> list[tuple[float, Any]]:
    history = training.get("history") or []
    return [
        (epoch.get("epoch", i + 1), ((epoch.get("terms") or {}) if terms else epoch).get(key))
        for i, epoch in enumerate(history)
    ]
