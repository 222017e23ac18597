"""What a command was given: a folder of photos or a recipe. Nothing heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from kdcompress.console import say
from kdcompress.errors import UsageError
from kdcompress.pipelines.catalogue import shipped_recipes

BOTH = "a folder of images, a name of `kdcompress list recipes`, or a recipe's file (.yaml)"


def is_photos(name: str, any_file: bool = True) -> bool:
    """Whether the argument is a folder of photos, and no recipe. Raises UsageError for what is neither: a recipe's file
    ends with .yaml, unless it may be ``any_file``."""
    path, shipped = Path(name), shipped_recipes()
    try:
        folder, file = path.is_dir(), path.suffix in (".yaml", ".yml") or (any_file and path.is_file())
    except OSError as error:  # such as a name longer than a system takes
        raise UsageError("The name cannot be looked up.", where=name[:80], got=error.strerror) from error
    if folder and name in shipped:
        say(f"{name} is a folder here, and a recipe of kdcompress: the recipe is meant. The folder is ./{name}")
    if folder or file or name in shipped:
        return folder and name not in shipped
    near = difflib.get_close_matches(name, shipped, n=1)
    raise UsageError(
        f"There is no recipe and no folder named {name[:80]!r}.",
        allowed=BOTH,
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def refuse_options(use: str, name: str, minutes: float | None, targets: Sequence[str], force: bool = False) -> None:
    """Raises UsageError where what is for photos was given with a recipe."""
    given = ["--minutes"] * bool(minutes) + ["--target"] * bool(targets) + ["--force"] * force
    if given:
        hint = "a recipe says itself how long it trains, and what it builds: train.epochs, export.targets"
        what = f"{', '.join(given)} goes with a folder of photos, and {name[:80]} is none."
        raise UsageError(what, where=use, hint=hint)
