"""A label set that grows: which classes are learnt one after the other, and what is kept of the earlier ones."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from kdcompress.recipe.section import Name, Section

MOST = 100  # groups


def parsed(value: Any) -> Any:
    """A number of groups, or the names of each group's classes (numbers may be names); one error for what is
    neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 2 <= value <= MOST:
            return value
        raise ValueError(f"a number of 2 to {MOST} groups is wanted")
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, (list, tuple)) for each in value):
        raise ValueError("give a number of groups, or a list of groups, each a list of names of classes")
    if not 2 <= len(value) <= MOST:
        raise ValueError(f"2 to {MOST} groups are wanted")
    if empty := [str(number) for number, each in enumerate(value, 1) if not each]:
        raise ValueError(f"a group has classes, and number {', '.join(empty)} has none")
    names = [[str(name) if type(name) is int else name for name in each] for each in value]
    known: set[Any] = set()
    for name in (name for each in names for name in each):
        if not isinstance(name, str) or not name:
            raise ValueError("the name of a class is text")
        if name in known:
            raise ValueError(f"a class is learnt once, and {name!r} is there twice")
        known.add(name)
    return tuple(map(tuple, names))


class Lifelong(Section):
    """The student learns its classes group by group. Each time it starts from itself as it was, which also teaches it
    (``method: lwf``), and sees images of the new classes alone, and the exemplars of the earlier ones."""

    groups: Annotated[
        Annotated[int, Field(ge=2, le=MOST)] | tuple[tuple[Name, ...], ...],
        BeforeValidator(parsed),
    ] = Field(
        description="A number: so many groups of about equal size, in the order of the classes. Or the names of the "
        "classes of each group, every class once."
    )
    exemplars: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Training images of each class that are kept when later groups are learnt, those whose mean is "
        "nearest to that of the class (herding). 0: none.",
    )

    @property
    def count(self) -> int:
        return self.groups if isinstance(self.groups, int) else len(self.groups)
