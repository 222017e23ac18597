"""What a run must be for a private method's promise to hold: it is one about all that made the student."""

from __future__ import annotations

from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.recipe import Recipe


def check_private(recipe: Recipe) -> None:
    """Raises UsageError that lists everything by which the student would learn more of private images than the answers,
    where it, or an assistant, learns by a private method."""
    taught = [recipe.method, *(assistant.method or {} for assistant in recipe.assistants)]
    names = [name for method in taught for name in method if name in methods and methods[name].private]
    if not names:
        return
    problems = []
    if recipe.data.public is None:
        problems.append("data.public: say which share of the training images is public, 0.1 for example")
    if len(recipe.method) > 1 or recipe.assistants or recipe.generations > 1:
        problems.append("method: it must be the only method, without assistants or generations")
    if recipe.pretrain:
        problems.append("pretrain: its teacher may have seen any image: leave it out")
    if recipe.student.prune:
        problems.append("student.prune: it would start from a private teacher's weights")
    trainings = {"train": recipe.train, "teacher.train": recipe.teacher and recipe.teacher.train}
    trainings |= {f"co_teachers.{i}.train": teacher.train for i, teacher in enumerate(recipe.co_teachers)}
    for where, train in trainings.items():
        if train and train.select != "last":
            problems.append(f"{where}.select: best is chosen by private labels, for all teachers alike: last")
        if where != "train" and not train and recipe.teacher:
            problems.append(f"{where}: given weights may have seen any image: have the teacher trained")
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise UsageError(f"With {names[0]} this run would not be private:{listed}", hint="docs/private.md")
