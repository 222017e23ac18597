"""What may ship: each row held to the recipe's bounds, and which artefact leads."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kdcompress.bench.devices import LOCAL
from kdcompress.bench.record import Record, paired_ratio
from kdcompress.export import formats
from kdcompress.pipelines.timed import untimed
from kdcompress.recipe import Candidate, Recipe
from kdcompress.report import sure
from kdcompress.report.figures import apart, times
from kdcompress.report.gates import in_words, over
from kdcompress.report.present import headline
from kdcompress.report.rows import Row

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # of a value in that precision


def not_as_asked(precision: str, coverage: dict[str, Any] | None) -> str | None:
    """Why what was built is not in that precision, by its coverage: of fp32 every layer has to be, of fp16 most weights
    (every layer, where weights are not counted), of int8 something, for the scheme may leave layers in float."""
    if not coverage:
        return "the types of its layers are not on record"
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
    if row.drop_to_parent:
        row.drop_to_parent["allowed"] = max_drop
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
            row.next = (
                f"the first difference to the fp32 parent is at {first}; `kdcompress inspect --bisect` shows the rest"
            )
    elif row.device_parity and not row.device_parity["passed"]:
        row.status, row.why = (
            "failed",
            f"its outputs on the device differ from those here: {row.device_parity.get('why')}",
        )
        row.next = "use a target whose scheme suits that processor (`kdcompress list targets`), or another runtime"
    elif stopped := (row.latency or {}).get("failed"):
        row.status, row.why = "failed", f"it stopped while it was timed: {stopped}"
        row.next = "`kdcompress bench` times it alone; `--force latency` times all again"
    elif row.drop is not None and row.drop > max_drop:
        lost = apart(row.drop, max_drop) + f" points{sure.brackets(row.drop_to_parent)}"
        doubt = sure.undecided(sure.interval(row.drop_to_parent), max_drop) if row.drop_to_parent else ""
        row.status, row.why = "failed", f"it loses {lost} to its fp32 parent; {max_drop:g} are allowed"
        row.why += f": {doubt}" if doubt else ""
        row.next = "try more export.calibration_images, another calibration in the target, or a larger export.max_drop"
    elif row.precision == "int8" and row.ratio and row.ratio["verdict"] == "slower":
        slower = f"slower than its fp32 parent on this machine: {times(row.ratio['median'])} times the latency"
        row.status, row.why = "failed", slower
        row.next = "use a target whose quantisation scheme fits this processor: see `kdcompress list targets`; "
        row.next += "`kdcompress inspect FILE --layers --against PARENT` shows which layers are slower"


def margin(rows: list[Row]) -> dict[str, Any] | None:
    """The student's fastest artefact that may ship, the next one, and the ratio of their latencies, the next one's over
    the fastest's; None where fewer than two were timed."""
    may_ship = [row for row in rows if row.role == "student" and row.status == "measured"]
    timed = [(row.name, Record(**row.latency)) for row in may_ship if row.latency]
    timed = [named for named in timed if named[1].median_ms]
    ranked = sorted(timed, key=lambda named: named[1].median_ms or 0.0)[:2]
    if len(ranked) < 2:
        return None
    (first, fastest), (second, following) = ranked
    return {"first": first, "second": second, **paired_ratio(following, fastest)}


def gates(recipe: Recipe, rows: list[Row]) -> list[dict[str, Any]]:
    """Each limit that the recipe sets, the value, and whether it is met."""
    by_name = {row.name: row for row in rows}
    student, teacher = by_name["student-fp32"], by_name.get("teacher-fp32")
    may_ship = [row for row in rows if row.role == "student" and row.status == "measured"]
    latencies = [ms for row in may_ship if (ms := (row.latency or {}).get("median_ms")) is not None]
    values = {
        "teacher": (teacher.score if teacher else None, 1),
        "student": (student.score, 1),
        "student_parameters": (student.parameters, -1),
        "latency_ms": (min(latencies, default=None), -1),
    }
    found = []
    for name, (value, sign) in values.items():
        limit = getattr(recipe.gates, name)
        if limit is not None:
            met = value is not None and sign * value >= sign * limit
            gate = {"name": name, "limit": limit, "value": value, "met": met}
            row = {"teacher": teacher, "student": student}.get(name)
            if row and row.score_low is not None:
                gate["interval"] = {"low": row.score_low, "high": row.score_high, "images": row.images}
            found.append(gate)
    return found


def held(recipe: Recipe, rows: list[Row]) -> list[Row]:
    """The rows that the recipe's budgets hold for: of its ``budgets.target``; else all that are timed here, of targets
    that nobody named the one that ships, and where there is no target the fp32 ONNX."""
    students = [row for row in rows if row.role == "student"]
    if recipe.budgets.target:
        names = {formats.target(name).name for name in recipe.budgets.target}
        return [row for row in students if row.target in names]
    if formats.AUTO in recipe.export.targets:
        ship = headline({"rows": [row.to_json() for row in rows]})["ship"]
        return [row for row in students if ship and row.name == ship["name"]]
    if recipe.bench.device == LOCAL:
        here = {target.name for target in formats.chosen(recipe.export.targets) if target.timed_here}
    else:
        here = {row.target for row in students if row.target and row.latency}
    return [row for row in students if row.target in here and row.status != "built, not run"] or students[:1]


def check_budgets(recipe: Recipe) -> None:
    """Raises RuntimeMissingError where a budget is on a latency that cannot be measured on the recipe's device, or
    where that cannot be reached; UsageError where it is no device for this."""
    named = formats.chosen(recipe.budgets.target) if recipe.budgets.latency is not None else []
    for error in untimed(recipe.bench.device, named).values():
        raise error


def budgets(recipe: Recipe, rows: list[Row]) -> list[dict[str, Any]]:
    """The recipe's budgets as gates: each with the artefact, the limit, its value, whether it is met, else by how much
    it is missed and what to try next. A row that misses one says so, too."""
    asked, found = recipe.budgets, []
    teacher = next((row.score for row in rows if row.name == "teacher-fp32"), None)
    for row in held(recipe, rows):
        lost = None if teacher is None or row.score is None else round(teacher - row.score, 9)
        figures = {
            "latency": (row.latency["median_ms"] if row.latency else None, asked.latency_ms),
            "size": (row.bytes, asked.size_bytes),
            "memory": (row.memory, asked.memory_bytes),
            "drop": (lost, asked.drop),
        }
        for what, (value, limit) in figures.items():
            if limit is None:
                continue
            value = None if row.status == "failed" else value
            gate: dict[str, Any] = {"name": f"budget_{what}", "artefact": row.name, "limit": limit, "value": value}
            gate["met"] = value is not None and value <= limit
            if what == "drop" and value is not None and row.drop_to_teacher:
                gate["interval"] = {key: row.drop_to_teacher[key] for key in ("low", "high", "images")}
            if not gate["met"]:
                gate["over"] = None if value is None else over(value, limit, points=what == "drop")
                gate["next"] = row.next if row.status == "failed" else _instead(recipe, row, what, value)
                if value is not None and not row.why:
                    row.why, row.next = f"over its budget: {what} {gate['over']}", gate["next"]
            found.append(gate)
    return found


def _instead(recipe: Recipe, row: Row, what: str, value: float | None) -> str:
    """What to try after a student that missed a budget: another candidate of the plan, where there is one."""
    if value is None:
        return f"measure it where it runs: its {what} is not known here"
    if not recipe.budgets.candidates:
        return "`kdcompress plan` measures which students fit these budgets"
    mine = recipe.budgets.planned(recipe.student)
    others = [each for each in recipe.budgets.candidates if each.student != recipe.student]
    if what == "drop":
        others = [each for each in others if mine is None or each.macs > mine.macs]
        if not others:
            return "no candidate inside the budgets has more capacity: train longer, another method, or larger budgets"
    elif mine is not None:
        others = [each for each in others if _less(recipe, each, mine, row, what, value)]
    if not others:
        return f"no candidate of the plan has less {what}: plan again, with a smaller budget"
    best = max(others, key=lambda each: each.macs)
    model = f"model={best.student.model}" if best.student.model else f"ratio={best.student.ratio:g}"
    return f"run the recipe with student.{model}, the next candidate of its plan"


def _less(recipe: Recipe, other: Candidate, mine: Candidate, row: Row, what: str, value: float) -> bool:
    """Whether another candidate meets the budget, if its figure is as far from what was predicted as this one's."""
    limit = {"latency": recipe.budgets.latency_ms, "size": recipe.budgets.size_bytes}.get(what)  # memory: not predicted
    figures = [each.latency_ms if what == "latency" else each.bytes for each in (other, mine)]
    theirs, predicted = (each.get(row.target or "") for each in figures)
    if not theirs or not predicted or limit is None:
        return other.macs < mine.macs
    return theirs * value / predicted <= limit


def predictions(recipe: Recipe, rows: list[Row]) -> list[dict[str, Any]]:
    """What the plan predicted of the untrained student, and what the trained artefact measures."""
    planned = recipe.budgets.planned(recipe.student)
    if planned is None:
        return []
    found = []
    for row in rows:
        predicted = planned.latency_ms.get(row.target or "") if row.role == "student" else None
        measured = (row.latency or {}).get("median_ms")
        if predicted and measured:
            error = 100 * (predicted / measured - 1)
            found.append(
                {"name": row.name, "predicted_ms": predicted, "measured_ms": measured, "error_percent": error}
                | {"predicted_bytes": planned.bytes.get(row.target or ""), "bytes": row.bytes}
            )
    return found


def failures(document: dict[str, Any]) -> list[str]:
    """Why a finished run ends with exit code 1, else empty. Of targets that nobody named, two are enough."""
    rows = [f"{r['name']} failed: {r['why']}" for r in document["rows"] if r["status"] == "failed"]
    if formats.AUTO in document["recipe"]["export"]["targets"]:
        rows = [] if document["margin"] else rows
    return rows + [_unmet(gate, document) for gate in document["gates"] if not gate["met"]]


def _unmet(gate: dict[str, Any], document: dict[str, Any]) -> str:
    said = in_words({**document, "gates": [gate]})[0]
    missed = f"{said['what']} {said['value']} ({said['limit']})" + (f": {said['doubt']}" if said["doubt"] else "")
    return f"budget missed: {missed}; next: {gate['next']}" if "artefact" in gate else f"gate {gate['name']}: {missed}"


def ratios(records: dict[str, Any]) -> dict[str, dict[str, Any]]:
    ok = {name: r for name, r in records.items() if r.n}
    bases = {"parent": "student-fp32", "teacher": "teacher-fp32"}
    return {
        kind: {n: paired_ratio(r, ok[base]) for n, r in ok.items() if n != base and n.startswith("student")}
        for kind, base in bases.items()
        if base in ok
    } | {kind: {} for kind, base in bases.items() if base not in ok}
