"""What a report says of each class: how often it is answered right, and what it is taken for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdcompress.report.figures import capital, fixed
from kdcompress.report.present import label, metric, of_each

MANY, WORST = 100, 20  # of so many classes, the so many that the student answers worst


class EachClass(NamedTuple):
    """Cells are text, a line for each class under ``titles``: ``lines`` of those to show, ``every`` of all classes
    where those are not all."""

    what: str
    titles: list[str]
    lines: list[list[str]]
    every: list[list[str]]


def each_class(document: Mapping[str, Any]) -> EachClass | None:
    """The scores of each class, of the fp32 files and of the int8 files that ship; None where they are not known."""
    found = document.get("by_label") or []
    if not found:
        return None
    rows = {row["name"]: row for row in document.get("rows") or [] if row.get("name")}
    files = [name for name in found[0].get("files") or {} if name in rows]
    roles = [role for role in ("teacher", "student") if any(each.get(role) is not None for each in found)]
    titles = ["class", "n", *(f"{role} %" for role in roles), *(f"{label(rows[name])} %" for name in files)]

    def line(each: Mapping[str, Any]) -> list[str]:
        scores = [each.get(role) for role in roles] + [(each.get("files") or {}).get(name) for name in files]
        return [str(each["label"]), f"{each['n']:,}", *map(fixed, scores)]

    what, n = capital(of_each(document)), f"n: {metric(document).get('counted') or 'images'} of it in the test split."
    if len(found) < MANY:
        return EachClass(f"{what} of each class. {n}", titles, list(map(line, found)), [])
    scored = sorted((each for each in found if each.get("student") is not None), key=lambda each: each["student"])
    what = f"{what} of the {WORST} classes that the student answers worst, of {len(found):,}. report.json has all. {n}"
    return EachClass(what, titles, list(map(line, scored[:WORST])), list(map(line, found)))


def confusion_changes(document: Mapping[str, Any], most: int = 8) -> dict[str, Any] | None:
    """Student minus teacher, in ``of``: the matrix, the confusions that changed most, and a ``note``.

    None where one of the two is missing or their shapes do not match the labels.
    """
    confusion = document.get("confusion") or {}
    labels, teacher, student = confusion.get("labels"), confusion.get("teacher"), confusion.get("student")
    if not labels or not teacher or not student:
        return None
    n = len(labels)
    if any(len(matrix) != n or any(len(line) != n for line in matrix) for matrix in (teacher, student)):
        return None
    change = [[student[i][j] - teacher[i][j] for j in range(n)] for i in range(n)]
    pairs = [
        {
            "true": labels[i],
            "predicted": labels[j],
            "teacher": teacher[i][j],
            "student": student[i][j],
            "change": change[i][j],
            "said": f"{abs(change[i][j]):,} {'more' if change[i][j] > 0 else 'fewer'}",
        }
        for i in range(n)
        for j in range(n)
        if i != j and change[i][j]
    ]
    pairs.sort(key=lambda pair: -abs(pair["change"]))
    told = {"of": confusion.get("of") or "test images", "note": confusion.get("note") or ""}
    return {"labels": labels, "change": change, "pairs": pairs[:most], **told}
