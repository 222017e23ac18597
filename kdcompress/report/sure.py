"""How sure a score is, and what a file loses: 95 % intervals, in the words that every form of the report has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.intervals import NONE_SHOWN, Interval
from kdcompress.report.figures import apart, fixed

NOTE = (
    "Brackets behind {metric}, drop and what is lost to the teacher hold the 95 % interval: other test images, as many "
    "as these, give a figure in there. No difference is shown where that of points lost holds 0."
)


def between(low: float, high: float) -> str:
    """An interval: "91.50–92.56", "−0.08 to 0.30"."""
    ends = fixed(low), fixed(high)
    return " to ".join(ends) if "−" in "".join(ends) else "–".join(ends)


def known(row: Mapping[str, Any] | None) -> bool:
    """Whether the interval of a row's score is."""
    return row is not None and row.get("score_low") is not None and row.get("score_high") is not None


def score(row: Mapping[str, Any]) -> str:
    """ "92.05 (91.50–92.56)"."""
    return fixed(row.get("score")) + (f" ({between(row['score_low'], row['score_high'])})" if known(row) else "")


def brackets(record: Mapping[str, Any] | None) -> str:
    """Behind points lost: " (0.60–1.98)", " (−0.08 to 0.30: no difference shown)"; "" where they are not known."""
    if not record:
        return ""
    none = f": {NONE_SHOWN}" if record.get("verdict") == NONE_SHOWN else ""
    return f" ({between(record['low'], record['high'])}{none})"


def beside(record: Mapping[str, Any] | None) -> str:
    """ "(0.60–1.98)" behind so many points below or above, which have no sign; "" where they are not known."""
    if record and record["verdict"] == NONE_SHOWN:
        return brackets(record).replace("(", "(drop ")
    if record and record["points"] < 0:
        return f" ({between(-record['high'], -record['low'])})"
    return brackets(record)


def drop(points: float | None, record: Mapping[str, Any] | None) -> str:
    """ "1.29 (0.60–1.98)", "0.11 (−0.08 to 0.30: no difference shown)"."""
    return fixed(record["points"] if record else points) + brackets(record)


def against(record: Mapping[str, Any] | None, whom: str) -> str:
    """ "1.36 points below the teacher (0.90–1.83)"; "" where it is not known."""
    if not record:
        return ""
    points, low, high = record["points"], record["low"], record["high"]
    if record.get("verdict") == NONE_SHOWN:
        return f"{NONE_SHOWN} to {whom} (drop {fixed(points)}, {between(low, high)})"
    if points < 0:
        return f"{fixed(-points)} points above {whom} ({between(-high, -low)})"
    return f"{fixed(points)} points below {whom} ({between(low, high)})"


def both(row: Mapping[str, Any]) -> str:
    """What a file loses to the teacher and to its fp32 parent."""
    said = against(row.get("drop_to_teacher"), "the teacher"), against(row.get("drop_to_parent"), "its fp32 parent")
    return "; ".join(filter(None, said))


def lines(document: Mapping[str, Any]) -> list[str]:
    """A line for each file whose score has an interval: that, and what the file loses."""
    return [
        f"{row.get('name')}: " + "; ".join(filter(None, [score(row).replace(" (", " % ("), both(row)]))
        for row in document.get("rows") or []
        if known(row)
    ]


def card(row: Mapping[str, Any]) -> str:
    """What a model card says behind the score; "" where no interval is known."""
    if not known(row):
        return ""
    said = f"95 % interval: {between(row['score_low'], row['score_high'])} %. {both(row)}".rstrip(". ")
    return said + ". Other test images, as many as these, give a figure in the interval."


def doubts(document: Mapping[str, Any]) -> list[str]:
    """A line for each file of which the test images do not decide whether it loses more than is allowed."""
    found = []
    for row in document.get("rows") or []:
        record = row.get("drop_to_parent") or {}
        doubt = undecided(interval(record), record["allowed"]) if record.get("allowed") is not None else ""
        if doubt and row.get("status") == "measured":
            found.append(f"{row.get('name')}: {doubt} (points lost, and allowed).")
    return found


def sentence(row: Mapping[str, Any], name: str) -> list[str]:
    """What the file that ships loses, and of how many images that is known."""
    said = both(row)
    return [f"On {row['images']:,} test images {name} has: {said}"] if said and row.get("images") else []


def interval(record: Mapping[str, Any]) -> Interval:
    """Of a record of points lost."""
    return Interval(record["points"], record["low"], record["high"], record["images"])


def undecided(found: Interval, limit: float, unit: str = "test") -> str:
    """That so many images cannot tell a figure from its limit, and about how many would; "" where they can."""
    if found.decides(limit):
        return ""
    enough = found.enough(limit)
    more = f", about {enough:,} would" if enough else ""
    value = apart(found.value, limit).replace("-", "−")
    return f"{found.images:,} {unit} images cannot tell {value} from {limit:g}{more}"
