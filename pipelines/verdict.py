"""What may ship: each row held to the recipe's bounds, and which artefact leads."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kdcompress.bench.timing import Record, paired_ratio
from kdcompress.export import formats
from kdcompress.recipe import Recipe
from kdcompress.report.rows import Row


def not_as_asked(precision: str, coverage: dict[str, Any] | None) -> str | None:
    """Why what was built is not in that precision, by its coverage: of fp32 every layer has to be, of fp16 most weights
    (every layer, where weights are not counted), of int8 something, for the scheme may leave layers in float."""
    if not coverage:
        return "its coverage is not on record"
    by_weight = precision == "fp16" and "weights" in coverage
    counted: Counter[str] = Counter()
    for family in ("weights",) if by_weight else ("conv", "gemm"):
        counted.update(coverage.get(family, {}))
    there, total = counted[precision], sum(counted.values())
    if there > total / 2 if by_weight else there > 0 if precision == "int8" else there == total:
        return None
    return ", ".join(
        f"{count:,} {'weights' if by_weight else 'layers'} in {kind}" for kind, count in (+counted).items()
    )


def judge(row: Row, max_drop: float) -> None:
    """Mark a row that must not ship as failed, with the reason and the next step."""
    if row.status not in ("measured", "built, not run"):
        return
    if row.target and (built := not_as_asked(row.precision, row.coverage)):
        row.status, row.why = "failed", f"it is not {row.precision} as built: {built}"
        row.next = "`kdcompress inspect` shows what was built; `kdcompress export` builds this target again"
    if row.status != "measured":
        return
    if row.parity and not row.parity["passed"]:
        row.status, row.why = "failed", f"its outputs differ from PyTorch's: {row.parity.get('why')}"
        row.next = "`kdcompress inspect` shows what was built; try float-nchw input, or another opset"
        if first := row.parity.get("first_difference"):
            row.next = f"it differs from the fp32 parent first at {first}; `kdcompress inspect --bisect` shows the rest"
    elif row.drop is not None and row.drop > max_drop:
        row.status, row.why = "failed", f"{row.drop:.2f} points less accurate than its parent; {max_drop} are allowed"
        row.next = "more export.calibration_images, another calibration method in the target, or a larger max_drop"
    elif row.precision == "int8" and row.ratio and row.ratio["verdict"] == "slower":
        row.status, row.why = "failed", f"{row.ratio['median']:.2f} times its fp32 parent's latency on this machine"
        row.next = "the target's quantisation scheme does not fit this processor: see `kdcompress list targets`"


def margin(rows: list[Row]) -> dict[str, Any] | None:
    """The student's fastest artefact that may ship, the next one, and the ratio of their latencies, the next one's over
    the fastest's; None where fewer than two were timed."""
    may_ship = [row for row in rows if row.role == "student" and row.status == "measured"]
    timed = [(row.name, Record(**row.latency)) for row in may_ship if row.latency and row.latency["n"]]
    ranked = sorted(timed, key=lambda named: named[1].median_ms or 0.0)[:2]
    if len(ranked) < 2:
        return None
    (first, fastest), (second, following) = ranked
    return {"first": first, "second": second, **paired_ratio(following, fastest)}


def gates(recipe: Recipe, rows: list[Row]) -> list[dict[str, Any]]:
    """Each limit that the recipe sets, the value, and whether it is met."""
    by_name = {row.name: row for row in rows}
    student, teacher = by_name["student-fp32"], by_name.get("teacher-fp32")
    latencies = [r.latency["median_ms"] for r in rows if r.role == "student" and r.status == "measured" and r.latency]
    values = {
        "teacher_accuracy": (teacher.accuracy if teacher else None, 1),
        "student_accuracy": (student.accuracy, 1),
        "student_parameters": (student.parameters, -1),
        "latency_ms": (min(latencies, default=None), -1),
    }
    found = []
    for name, (value, sign) in values.items():
        limit = getattr(recipe.gates, name)
        if limit is not None:
            met = value is not None and sign * value >= sign * limit
            found.append({"name": name, "limit": limit, "value": value, "met": met})
    return found


def failures(document: dict[str, Any]) -> list[str]:
    """Why a finished run ends with exit code 1, else empty. Of targets that nobody named, two are enough."""
    rows = [f"{r['name']} failed: {r['why']}" for r in document["rows"] if r["status"] == "failed"]
    if formats.AUTO in document["recipe"]["export"]["targets"]:
        rows = [] if document["margin"] else rows
    unmet = [f"gate {g['name']}: {g['value']} against {g['limit']}" for g in document["gates"] if not g["met"]]
    return rows + unmet


def ratios(records: dict[str, Any]) -> dict[str, dict[str, Any]]:
    ok = {name: r for name, r in records.items() if r.n}
    bases = {"parent": "student-fp32", "teacher": "teacher-fp32"}
    return {
        kind: {n: paired_ratio(r, ok[base]) for n, r in ok.items() if n != base and n.startswith("student")}
        for kind, base in bases.items()
        if base in ok
    } | {kind: {} for kind, base in bases.items() if base not in ok}
