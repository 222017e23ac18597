"""What a network knew after each group of classes that it learnt, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcompress.errors import some
from kdcompress.report.figures import fixed

NOTE = (
    "Test images of the classes learnt by then, in PyTorch; any of these classes may be the answer. Old: those learnt "
    "before the group."
)
NEAREST = " Nearest mean: of all, by the class whose exemplars' mean feature is nearest; the files answer by logits."


def sentences(document: Mapping[str, Any]) -> list[str]:
    """What is left of the first groups when the last one is learnt."""
    lessons = document.get("lifelong") or []
    if not lessons:
        return []
    first, last = lessons[0], lessons[-1]
    return [
        f"Learnt in {len(lessons)} groups of classes: after the first one {fixed(first['all'])} % are right; after the "
        f"last one {fixed(last['old'])} % of the old classes' images, {fixed(last['new'])} % of its own, "
        f"{fixed(last['all'])} % of all."
    ]


def table(document: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]], str] | None:
    """(title, titles of columns, a line for each group, note)."""
    lessons = document.get("lifelong") or []
    if not lessons:
        return None
    nearest = all(lesson.get("nearest") for lesson in lessons)
    titles = ["group", "images", "old %", "new %", "all %", *(["nearest mean %"] if nearest else []), "its classes"]
    lines = []
    for number, lesson in enumerate(lessons, 1):
        shares = [lesson["old"], lesson["new"], lesson["all"], *([lesson["nearest"]["all"]] if nearest else [])]
        lines.append([str(number), f"{lesson['n']:,}", *map(fixed, shares), some(lesson["classes"])])
    return "After each group of classes", titles, lines, NOTE + (NEAREST if nearest else "")
