"""What the pages of benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def interval(ratio: dict[str, Any] | None) -> str:
    """A paired ratio with its interval, "1" for the baseline, a dash where n supports no interval."""
    if ratio is None:
        return "1"
    if ratio["low"] is None:
        return "–"
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def table(rows: Sequence[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(show(row) for show in columns.values())} |" for row in rows]
    return "\n".join(lines) + "\n"
