"""What every form of the report says, in the same words: cells, headline and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.report import lifelong, sure, tuning
from kdcompress.report.figures import NONE, capital, count, duration, fixed, significant, size, times
from kdcompress.task import Metric

COLUMNS = {
    "name": "artefact",
    "precision": "precision",
    "status": "status",
    "size": "size",
    "score": "",  # the metric's name
    "drop": "drop",
    "behind": "to the teacher",
    "agreement": "agreement %",
    "median": "median ms",
    "p90": "p90 ms",
    "speed": "against fp32",
}
NUMBERS = ("size", "score", "drop", "behind", "agreement", "median", "p90", "speed")
_NOTES = (
    "Precision: the brackets count the convolutions and matrix products by type, where not all have the named one. "
    "{metric}: of the file itself, in its own runtime, on the whole test split. Drop: points that the file loses to "
    "the fp32 ONNX file it was made from; below 0 it gains. Agreement: {agreement}. Latency: time of a single query. "
    "Against fp32: both files are timed in turns, and the brackets hold a 95 % interval."
)


def metric(document: Mapping[str, Any]) -> Mapping[str, str]:
    """The figure that the document's scores are: its name, a shorter one and its unit."""
    return document.get("metric") or {"name": "accuracy", "short": "acc", "unit": "%"}


def of_each(document: Mapping[str, Any]) -> str:
    """What the figure of one label is called."""
    found = metric(document)
    return found.get("each") or found["name"]


def beside(document: Mapping[str, Any]) -> list[str]:
    """A line for each file that was scored, with the figures that stand beside its score."""
    names = metric(document).get("beside") or ()
    return [
        f"{row['name']}: " + ", ".join(f"{name} {fixed(row['details'].get(name))} %" for name in names)
        for row in document.get("rows") or []
        if names and row.get("details")
    ]


def parts(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """The figures that stand in a table of their own, a line for each file that was scored: titles and lines. None
    where there are none; a figure that no file has is left out."""
    scored = [row for row in document.get("rows") or [] if row.get("details")]
    names = [n for n in metric(document).get("parts") or () if any(row["details"].get(n) is not None for row in scored)]
    if not names:
        return None
    lines = [[str(row["name"]), *(fixed(row["details"].get(name)) for name in names)] for row in scored]
    return ["artefact", *(f"{name} %" for name in names)], lines


def whole_ms(document: Mapping[str, Any], row: Mapping[str, Any] | None) -> float | None:
    """The median latency of a file with what makes answers of its outputs; None where that takes no time, or where the
    two were not timed on one machine."""
    latency, more = (row or {}).get("latency") or {}, (row or {}).get("answer_ms")
    here = (document.get("device") or {}).get("name", "local") == "local"
    if not here or not more or not latency.get("median_ms"):
        return None
    return float(latency["median_ms"] + more * (latency.get("batch") or 1))


def answering(document: Mapping[str, Any]) -> list[str]:
    """A line for each file, with the latency of the file alone and with what makes answers of its outputs."""
    after = metric(document).get("after")
    return [
        f"{row['name']}: network {significant(_median(row))} ms, with {after} {significant(whole)} ms"
        for row in document.get("rows") or []
        if after and (whole := whole_ms(document, row))
    ]


def columns(document: Mapping[str, Any], short: bool = False) -> dict[str, str]:
    """The columns of rows, with their titles. What is lost to the teacher has one where it is known."""
    found = metric(document)
    behind = any(row.get("drop_to_teacher") for row in document.get("rows") or [])
    titles = {key: title for key, title in COLUMNS.items() if key != "behind" or behind}
    return titles | {"score": f"{found['short' if short else 'name']} {found['unit']}"}


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The text of a row in each of ``COLUMNS``."""
    latency = row.get("latency") or {}
    return {
        "name": str(row.get("name", NONE)),
        "precision": precision(row),
        "status": row.get("status") or NONE,
        "size": size(row.get("bytes")),
        "score": sure.score(row),
        "drop": sure.drop(row.get("drop"), row.get("drop_to_parent")),
        "behind": sure.drop(None, row.get("drop_to_teacher")),
        "agreement": fixed(row.get("agreement")),
        "median": significant(latency.get("median_ms")),
        "p90": significant(latency.get("p90_ms")),
        "speed": speed(row.get("ratio")),
    }


def precision(row: Mapping[str, Any]) -> str:
    """With its convolutions and matrix products by the type that they were built in, where that is not the same for
    all: "int8 (9 int8, 1 fp32)"."""
    counted: dict[str, int] = {}
    for family in ("conv", "gemm"):
        for kind, number in ((row.get("coverage") or {}).get(family) or {}).items():
            counted[kind] = counted.get(kind, 0) + number
    named = row.get("precision") or NONE
    built = {kind: number for kind, number in counted.items() if number}
    if not built or set(built) == {named}:
        return named
    return f"{named} ({', '.join(f'{number} {kind}' for kind, number in built.items())})"


def speed(ratio: Mapping[str, Any] | None) -> str:
    """A latency ratio in words: "3.1× faster (3.0–3.2)"."""
    if not ratio or not ratio.get("median"):
        return NONE
    middle, low, high = ratio["median"], ratio.get("low"), ratio.get("high")
    verdict = ratio.get("verdict")
    if verdict not in ("faster", "slower") or not low or not high:
        return "no difference shown"
    if verdict == "faster":
        middle, low, high = 1 / middle, 1 / high, 1 / low
    return f"{times(middle)}× {verdict} ({times(low)}–{times(high)})"


def column_notes(document: Mapping[str, Any]) -> str:
    """What the columns mean, and how many images a query was of where that is not one."""
    batches = sorted({(row.get("latency") or {}).get("batch") or 1 for row in document.get("rows") or []} - {1})
    fixed_batch = f" A query of a file with a fixed batch has {', '.join(map(str, batches))} images." if batches else ""
    after = metric(document).get("after")
    alone = f" Latencies are those of the files alone, without {after}." if after else ""
    told = metric(document)
    notes = _NOTES.format(metric=capital(told["name"]), agreement=told.get("agreement") or Metric.agreement)
    intervals = [sure.NOTE.format(metric=told["name"])] if any(map(sure.known, document.get("rows") or [])) else []
    return " ".join([notes + fixed_batch + alone, *intervals, *timed_elsewhere(document)])


def timed_elsewhere(document: Mapping[str, Any]) -> list[str]:
    """That the latencies are another machine's, where they are."""
    device = document.get("device") or {}
    if device.get("name", "local") == "local":
        return []
    there = device["machine"]
    facts = ", ".join(str(there[key]) for key in ("cpu", "architecture", "os") if there.get(key))
    return [f"Latencies are those of {device['name']} ({facts})."]


def notes(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """name, status, why and next of every row that was not measured, and of those measured with a remark."""
    return [
        {
            "name": str(row.get("name")),
            "status": row.get("status") or NONE,
            "why": row.get("why") or "",
            "next": row.get("next") or "",
        }
        for row in document.get("rows") or []
        if row.get("why") or row.get("next") or row.get("status") != "measured"
    ]


def warnings(document: Mapping[str, Any]) -> list[str]:
    """What makes a score worth little, of each network, and of each file that is worse than its parent there."""
    found = []
    for row in document.get("rows") or []:
        who = f"The {row.get('role')}" if row.get("target") is None else f"Unlike its fp32 parent, {row.get('name')}"
        found += [f"{who} {line}." for line in row.get("warnings") or []]
    return found


def headline(document: Mapping[str, Any]) -> dict[str, Any]:
    """What ships and how it compares: the numbers that a reader wants first.

    ``ship`` is the fastest measured student artefact (the smallest where no latency was measured), ``against``
    the teacher's fp32 ONNX, or the student's own where there is no teacher. None where there is none.
    """
    rows = document.get("rows") or []
    measured = [row for row in rows if row.get("status") == "measured"]
    students = [row for row in measured if row.get("role") == "student"]
    timed = [row for row in students if _median(row)]
    fastest = min(timed, key=lambda row: _median(row) or 0, default=None)
    ship = fastest or min(students, key=lambda row: row.get("bytes") or 1e18, default=None)
    fp32 = next((row for row in students if row.get("target") is None), None)
    teacher = next((row for row in measured if row.get("role") == "teacher"), None)
    against = teacher or (fp32 if fp32 is not ship else None)
    trained = {t.get("role"): t for t in document.get("training") or []}
    parameters = {
        role: (row or {}).get("parameters") or trained.get(role, {}).get("parameters")
        for role, row in (("student", ship or fp32), ("teacher", teacher))
    }
    return {
        "ship": ship,
        "fp32": fp32,
        "teacher": teacher,
        "against": against,
        "against_name": "the teacher" if teacher else "its fp32",
        "same_runtime": bool(ship and against and ship.get("format") == against.get("format")),
        "parameters": parameters["student"],
        "teacher_parameters": parameters["teacher"],
        "faster": _over(_median(against), _median(ship)),
        "smaller": _over((against or {}).get("bytes"), (ship or {}).get("bytes")),
        "fewer": _over(parameters["teacher"], parameters["student"]),
        "lost": _minus((against or {}).get("score"), (ship or {}).get("score")),
        "lost_said": sure.beside((ship or {}).get("drop_to_teacher" if teacher else "drop_to_parent")),
    }


def sentences(document: Mapping[str, Any]) -> list[str]:
    """The headline in two lines of plain text: the student, and the file that ships."""
    head = headline(document)
    ship = head["ship"]
    if ship is None:
        return ["No artefact of the student was measured."]
    first = "student"
    if head["parameters"]:
        first += f" {count(head['parameters'])} parameters"
    fp32 = head["fp32"] or ship
    if fp32.get("score") is not None:
        first += f": {fixed(fp32['score'])} %"
    if head["teacher"] and head["teacher"].get("score") is not None:
        first += f" (teacher {fixed(head['teacher']['score'])} %)"
    facts = [
        f"{fixed(ship['score'])} %" if ship.get("score") is not None else "",
        f"{significant(_median(ship))} ms" if _median(ship) else "",
        f"{significant(whole)} ms with {metric(document).get('after')}" if (whole := whole_ms(document, ship)) else "",
        size(ship["bytes"]) if ship.get("bytes") else "",
    ]
    second = f"{label(ship)}: " + ", ".join(fact for fact in facts if fact)
    against = [comparison(head["faster"], "faster", "slower"), comparison(head["smaller"], "smaller", "larger")]
    said = " and ".join(part for part in against if part)
    if said:
        second += f"; {said} than {head['against_name']}" + (" in the same runtime" if head["same_runtime"] else "")
    return [
        first,
        second,
        *sure.sentence(ship, label(ship)),
        *([document["teacher_input"]] if document.get("teacher_input") else []),
        *normalisation(document),
        *lead(document),
        *timed_elsewhere(document),
        *beside(document),
        *tournament(document),
        *tuning.sentences(document),
        *lifelong.sentences(document),
        *predictions(document),
    ]


def normalisation(document: Mapping[str, Any]) -> list[str]:
    """What the student's files do to pixels first, and who says so."""
    known = (document.get("normalisation") or {}).get("student")
    if not known:
        return []
    mean, std = known["mean"], known["std"]
    if not any(mean) and len(set(std)) == 1 and std[0] in (1, 1 / 255):
        does = "none; the network takes pixels of " + ("0..1" if std[0] == 1 else "0..255 as they are")
    else:
        shown = [", ".join(map(significant, values)) for values in (mean, std)]
        does = f"mean {shown[0]} and std {shown[1]}, for pixels in 0..1"
    return [f"Normalisation inside the files: {does} ({known['from']})."]


def lead(document: Mapping[str, Any]) -> list[str]:
    """How far the fastest is ahead of the next one, where it is."""
    margin = document.get("margin") or {}
    if not margin.get("median"):
        return []
    first, second, low, high = margin["first"], margin["second"], margin["low"], margin["high"]
    if margin["verdict"] != "slower":
        return [f"{first} and {second} show no difference in latency: choose by size or by runtime."]
    return [f"{first} is {times(margin['median'])} times faster ({times(low)}–{times(high)}) than the next, {second}."]


def predictions(document: Mapping[str, Any]) -> list[str]:
    """What a plan predicted of the latency, untrained, beside what the trained artefacts measure: the one that ships,
    and those of a search's candidates after their last training."""
    shipped = document.get("predictions") or []
    searched = (document.get("search") or {}).get("predictions") or []
    return [
        f"{each['name']}: the plan predicted {significant(each['predicted_ms'])} ms, {_error(each['error_percent'])}."
        for each in [*shipped, *searched]
    ]


def _error(percent: float) -> str:
    if not round(percent):
        return "as measured"
    return f"{abs(percent):.0f} % {'more' if percent > 0 else 'less'} than measured"


def tournament(document: Mapping[str, Any]) -> list[str]:
    """Who won the search for a student, and by how much."""
    rounds = (document.get("search") or {}).get("rounds") or []
    if not rounds:
        return []
    entered, last = rounds[0]["entries"], sorted(rounds[-1]["entries"], key=lambda e: -(e.get("score") or 0))
    first, *others = (f"{entry['name']} ({fixed(entry.get('score'))} %)" for entry in last)
    after = f" after {count(rounds[-1]['images'])} images" if rounds[-1].get("images") else ""
    line = f"{first} won the tournament of {len(entered)} candidates, judged on validation images{after}"
    line += f"; then {', '.join(others)}" if others else ""
    scores = [entry["score"] for entry in last if entry.get("score") is not None]
    even = len(scores) > 1 and scores[0] - scores[1] < (rounds[-1].get("noise") or 0.0)
    return [line + (": no difference shown between the first two." if even else ".")]


def label(row: Mapping[str, Any]) -> str:
    """ "int8 x86-vnni", "fp32 onnx"."""
    return f"{row.get('precision') or ''} {row.get('target') or row.get('format') or ''}".strip()


def comparison(factor: float | None, more: str, less: str) -> str:
    """A factor in words: "5.1 times faster", "no faster"; "" where there is none."""
    if not factor:
        return ""
    if 0.995 < factor < 1.005:
        return f"no {more}"
    return f"{times(factor)} times {more}" if factor > 1 else f"{times(1 / factor)} times {less}"


def points_off(points: float | None) -> str:
    """Points lost in words: "1.36 points below"; "" where they are not known."""
    if points is None:
        return ""
    return f"{fixed(abs(points))} points {'below' if points > 0 else 'above'}" if round(points, 2) else "equal to"


LADDER = ("rung", "what", "validation %", "points lost", "size", "time", "")


def ladders(document: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """(artefact, a line of ``LADDER`` for each rung that was climbed) where more than one was."""
    found = []
    for row in document.get("rows") or []:
        rungs = row.get("ladder") or []
        if len(rungs) > 1:
            lines = [
                [
                    *(
                        rung["rung"],
                        rung["what"],
                        fixed(rung["score"]),
                        sure.drop(rung["drop"], rung.get("lost")),
                        size(rung["bytes"]),
                    ),
                    *(duration(rung["seconds"]), "kept" if rung["kept"] else rung["why"] or ""),
                ]
                for rung in rungs
            ]
            found.append((row.get("name", ""), lines))
    return found


def _median(row: Mapping[str, Any] | None) -> float | None:
    return ((row or {}).get("latency") or {}).get("median_ms")


def _over(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
