"""What a search for a training's settings tried, and what won."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.report.figures import NONE, fixed

MOST = 12  # trials of a table


def sentences(document: Mapping[str, Any]) -> list[str]:
    """A line for each training whose settings were searched."""
    return [_sentence(found) for found in document.get("tuning") or []]


def _sentence(found: Mapping[str, Any]) -> str:
    trials, best = found["trials"], found["trials"][found["best"]]
    own, winner = trials[0], found["winner"]
    what = ", ".join(f"{name} {value:g}" for name, value in winner.items()) or "The recipe's own settings"
    length = f"each {100 * found['share']:g} % of the full training"
    line = f"{what} won {len(trials)} trials for the {found['role']}, {length}: {fixed(best['score'])} % of validation"
    if not winner:
        return f"{line}."
    if own["state"] != "complete":
        return f"{line}; the recipe's own settings were {own['state']}."
    even = best["score"] - own["score"] < (found.get("noise") or 0.0)
    doubt = ", no difference shown" if even else ""
    return f"{line}, {fixed(own['score'])} % with the recipe's own settings{doubt}."


def tables(document: Mapping[str, Any], metric: str) -> list[tuple[str, list[str], list[list[str]], str]]:
    """(title, titles of columns, lines, note) for each training whose settings were searched, the best trials first."""
    found = []
    for each in document.get("tuning") or []:
        names = list(each["trials"][0]["values"])
        ranked = sorted(enumerate(each["trials"]), key=lambda trial: _rank(trial, each["best"]))
        lines = [
            [
                str(number + 1),
                *(f"{trial['values'][name]:g}" for name in names),
                fixed(trial["score"]),
                _said(each, number),
            ]
            for number, trial in ranked
        ]
        left = f" {len(lines) - MOST} more are in report.json." if len(lines) > MOST else ""
        note = f"Each trial is {100 * each['share']:g} % of the full training, judged on validation images.{left}"
        titles = ["trial", *names, f"validation {metric} %", "outcome"]
        found.append((f"Settings tried for the {each['role']}", titles, lines[:MOST], note))
    return found


def _rank(numbered: tuple[int, Mapping[str, Any]], best: int) -> tuple[Any, ...]:
    number, trial = numbered
    states = ("complete", "stopped", "failed")
    return number != best, states.index(trial["state"]), -(trial["percent"] or 0), -(trial["score"] or 0), number


def _said(found: Mapping[str, Any], number: int) -> str:
    trial = found["trials"][number]
    said = {
        "complete": "won" if number == found["best"] else "",
        "stopped": f"stopped at {trial['percent']} %",
        "failed": f"failed: {trial['why']}",
    }[trial["state"]]
    own = "the recipe's own" if number == 0 else ""
    return "; ".join(filter(None, [own, said])) or NONE
