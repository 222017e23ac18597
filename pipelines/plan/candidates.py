"""The students that take part in a plan, from the names that were asked for."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from kdcompress.errors import UsageError
from kdcompress.models.build import build
from kdcompress.models.names import form, head, heads, names
from kdcompress.own_code import imported, is_own
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
TRIED = "small-resnet10x1"  # shows what the networks of a form answer
WEIGHTLESS: dict[str, Any] = {"weights": None, "pretrained": False}

Foreign = Callable[[str], str | None]
"""Of a network's name: why it is for another task, None where it is not."""


def expand(asked: Sequence[str], side: int, foreign: Foreign = lambda name: None) -> list[str]:
    """The names that ``asked`` stands for: names, patterns ("resnet*"), "zoo", "mobile" and "prune=0.5"; with none,
    the defaults for images of ``side`` pixels. A group or a pattern stands for those that are not ``foreign``, as they
    are or on a head. Raises UsageError for an unknown name, a foreign one, and a pattern of none."""
    known = names()
    everything = [name for group in known.values() for name in group]
    groups = {"zoo": known["zoo"], "mobile": list(MOBILE)}
    on = [each for each in heads() if foreign(f"{each}/{TRIED}") is None]
    found: list[str] = []
    for name in asked or (GROUPS[:1] if side < SMALL else GROUPS):
        if name in groups:
            found += [] if foreign(TRIED) else groups[name]
            # the zoo's others are for images of 32 pixels: their maps are too fine for a head
            coarse = [each for each in groups[name] if name != "zoo" or each.startswith("small-")]
            found += [f"{its}/{each}" for its in on for each in coarse]
        elif any(letter in name for letter in "*?["):
            found += _matching(name, everything, on, foreign)
        elif is_own(name) and name.partition("/")[0] not in heads():
            imported("model", name)
            found.append(name)
        elif name.startswith("prune="):
            found.append(name)
        else:
            if name not in everything:
                build(name, 10, 3)  # raises with the nearest name
            if why := foreign(name):
                hint = ", ".join(f"{its}/{name}" for its in on if form(name) == "") or None
                raise UsageError(why, where="--candidates", got=name, hint=hint)
            found.append(name)
    return list(dict.fromkeys(found))


def _matching(pattern: str, everything: list[str], on: list[str], foreign: Foreign) -> list[str]:
    bare = fnmatch.filter(everything, pattern)
    found = [name for name in bare if foreign(name) is None]
    backbones = [name for name in everything if form(name) == ""]
    found += [f"{its}/{name}" for its in on for name in backbones if fnmatch.fnmatch(f"{its}/{name}", pattern)]
    if not found:
        hint = ", ".join(f"{its}/{pattern}" for its in on if bare) or None
        what = "No model for this task has a name like this." if bare else "No model has a name like this."
        raise UsageError(what, where="--candidates", got=pattern, hint=hint)
    return found


def students(recipe: Recipe, asked: Sequence[str], side: int, foreign: Foreign) -> list[Student]:
    """The recipe's own first, then those of ``expand``, all without weights."""
    found = [recipe.student.model_copy(update=WEIGHTLESS)]
    for name in expand(asked, side, foreign):
        if (student := student_of(recipe, name)) not in found:
            found.append(student)
    return found


def student_of(recipe: Recipe, name: str) -> Student:
    """A candidate by its name, without weights. On a head, it has those options of the recipe's student that the head
    takes."""
    base = recipe.student
    if name.startswith("prune="):
        if recipe.teacher is None:
            raise UsageError("Pruning needs a teacher, and the recipe has none.", where="--candidates", got=name)
        if recipe.teacher.input:
            what = "A pruned student sees what the teacher sees, and the recipe's teacher has an input of its own."
            raise UsageError(what, where="--candidates", got=name, hint="leave teacher.input out, or name networks")
        if recipe.teacher.opaque:
            what = "Pruning needs the teacher's network, and the recipe's teacher is a black box."
            raise UsageError(what, where="--candidates", got=name)
        try:
            return Student(prune="teacher", ratio=float(name.removeprefix("prune=")))
        except ValueError as error:
            allowed = "prune=0.5 and so on, between 0 and 1"
            raise UsageError(
                "This is not a share of channels.", where="--candidates", got=name, allowed=allowed
            ) from error
    if name == base.model and not base.prune:
        return base.model_copy(update=WEIGHTLESS)
    return Student(model=name, size=None if base.prune else base.size, options=_head_options(base, name))


def _head_options(base: Student, name: str) -> dict[str, Any]:
    made, own = head(form(name)), base.model and form(base.model)
    if made is None or own not in heads():
        return {}
    taken = {"finest", *inspect.signature(made).parameters}
    return {key: value for key, value in base.options.items() if key in taken}
