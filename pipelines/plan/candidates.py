"""The students that take part in a plan, from the names that were asked for."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from kdcompress.errors import UsageError
from kdcompress.models.build import build, names
from kdcompress.own_code import imported
from kdcompress.recipe import Recipe, Student

# timm's families for phones, in widths and depths; they halve the resolution five times, which small images have not.
MOBILE = (
    *(f"timm/lcnet_{width}" for width in ("035", "050", "075", "100", "150")),
    *(f"timm/mobilenetv3_small_{width}" for width in ("050", "075", "100")),
    *("timm/mobilenetv4_conv_small", "timm/mobilenetv4_conv_medium", "timm/mobilenetv3_large_100"),
    *("timm/mobilenetv2_050", "timm/mobilenetv2_100", "timm/mobilenetv2_140"),
    *("timm/tinynet_e", "timm/tinynet_c", "timm/tinynet_a", "timm/ghostnet_100", "timm/mobileone_s0"),
    *("timm/efficientnet_lite0", "timm/repvgg_a0"),
)
GROUPS = ("zoo", "mobile")
SMALL = 64  # pixels a side, below which the zoo's networks are the defaults, and timm's from there on
WEIGHTLESS: dict[str, Any] = {"weights": None, "pretrained": False}


def expand(asked: Sequence[str], side: int) -> list[str]:
    """The names that ``asked`` stands for: names, patterns ("resnet*"), "zoo", "mobile" and "prune=0.5"; with none,
    the defaults for images of ``side`` pixels. Raises UsageError for an unknown name and a pattern of none."""
    known = names()
    everything = [name for group in known.values() for name in group]
    groups = {"zoo": known["zoo"], "mobile": list(MOBILE)}
    found: list[str] = []
    for name in asked or (GROUPS[:1] if side < SMALL else GROUPS):
        if name in groups:
            found += groups[name]
        elif any(letter in name for letter in "*?["):
            matching = fnmatch.filter(everything, name)
            if not matching:
                raise UsageError("No model has a name like this.", where="--candidates", got=name)
            found += matching
        elif ":" in name:
            imported("model", name)
            found.append(name)
        elif name.startswith("prune=") or name in everything:
            found.append(name)
        else:
            build(name, 10, 3)  # raises with the nearest name
    return list(dict.fromkeys(found))


def students(recipe: Recipe, asked: Sequence[str], side: int) -> list[Student]:
    """The recipe's own first, then those of ``expand``, all without weights."""
    found = [recipe.student.model_copy(update=WEIGHTLESS)]
    for name in expand(asked, side):
        if (student := _student(recipe, name)) not in found:
            found.append(student)
    return found


def _student(recipe: Recipe, name: str) -> Student:
    base = recipe.student
    if name.startswith("prune="):
        if recipe.teacher is None:
            raise UsageError("Pruning needs a teacher, and the recipe has none.", where="--candidates", got=name)
        try:
            return Student(prune="teacher", ratio=float(name.removeprefix("prune=")))
        except ValueError as error:
            allowed = "prune=0.5 and so on, between 0 and 1"
            raise UsageError(
                "This is not a share of channels.", where="--candidates", got=name, allowed=allowed
            ) from error
    size = None if base.prune else base.size
    same = name == base.model and not base.prune
    return base.model_copy(update=WEIGHTLESS) if same else Student(model=name, size=size)
