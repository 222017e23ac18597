"""The gates of a run in words: limits, values, and by how much one is missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.intervals import Interval
from kdcompress.report import sure
from kdcompress.report.figures import NONE, apart, fixed, significant, size
from kdcompress.report.present import metric

GATE_UNITS = {
    "teacher": ("teacher's {metric}", "at least", " %"),
    "student": ("student's {metric}", "at least", " %"),
    "student_parameters": ("student's parameters", "at most", ""),
    "latency_ms": ("median latency of the fastest artefact", "at most", " ms"),
    "budget_latency": ("median latency", "at most", " ms"),
    "budget_size": ("size", "at most", "bytes"),
    "budget_memory": ("memory for file and largest layer", "at most", "bytes"),
    "budget_drop": ("{metric} lost to the teacher", "at most", " points"),
}


def in_words(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gates with their limit and value as text."""
    said = []
    for gate in document.get("gates") or []:
        name = gate.get("name", "").removesuffix("_accuracy")  # as they were called when all scores were
        what, bound, unit = GATE_UNITS.get(name, (name, "limit", ""))
        what = what.format(metric=metric(document)["name"])
        value, limit = gate.get("value"), gate.get("limit")
        text, most = _apart(value, limit, unit)
        found, interval, doubt = gate.get("interval"), "", ""
        if found and value is not None:
            interval = f"95 % interval {sure.between(found['low'], found['high'])}"
            doubt = sure.undecided(Interval(value, found["low"], found["high"], found["images"]), limit)
        text = "not measured" if value is None else text
        if name == "budget_drop" and value is not None and value < 0:
            text = f"none, {fixed(-value)} points gained"
        said.append(
            {
                "what": f"{gate['artefact']}: {what}" if gate.get("artefact") else what,
                "limit": f"{bound} {most}",
                "value": ", ".join(filter(None, [text, interval, gate.get("over")])),
                "doubt": doubt,
                "met": bool(gate.get("met")),
                "verdict": "met" if gate.get("met") else "not met",
            }
        )
    return said


def over(value: float, limit: float, points: bool = False) -> str:
    """By how much a value is above its limit: "12 % over", "0.31 points over"."""
    if points:
        return f"{apart(value - limit, 0)} points over"
    share = 100 * (value / limit - 1)
    return f"{significant(share, 2) if share < 100 else f'{share:.0f}'} % over"


def _apart(value: Any, limit: Any, unit: str) -> list[str]:
    """Both as text, with as many digits as tell them apart."""
    if unit == "bytes":
        texts = [size(value), size(limit)]
        return [f"{v:,.0f} B" for v in (value, limit)] if texts[0] == texts[1] and value != limit else texts
    for digits in (4, 6, 9):
        texts = [_plain(v, digits) + unit for v in (value, limit)]
        if texts[0] != texts[1] or value == limit:
            break
    return texts


def _plain(value: Any, digits: int) -> str:
    if not isinstance(value, float | int):
        return NONE if value is None else str(value)
    return f"{value:,.0f}" if value == int(value) else f"{value:.{digits}g}"
