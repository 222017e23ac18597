"""What `init RECIPE` does: a recipe that comes with kdcompress is copied, to be changed. Nothing heavy is imported."""

from __future__ import annotations

import shlex
from pathlib import Path

from kdcompress.console import say
from kdcompress.errors import UsageError
from kdcompress.pipelines.catalogue import copy_recipe, recipes, shipped_recipes


def copy(name: str, output: Path | None) -> Path:
    """Copies it, and says what it is and what is next. Raises UsageError for a recipe of the user's own that no other
    place is given for, and for what cannot be read or written."""
    path = Path(name)
    if name not in shipped_recipes():
        if not path.is_file():
            raise UsageError("There is no such recipe.", where=path, hint="`kdcompress list recipes` has names")
        if output is None:
            hint = f"`kdcompress run {shlex.quote(name)}` runs it, and `kdcompress init PHOTOS` makes one for photos"
            raise UsageError("This is a recipe already.", where=path, allowed="-o, for a copy of it", hint=hint)
    written = copy_recipe(name, output)
    about = {each["recipe"]: each["about"] for each in recipes()}.get(name)
    say(f"Written: {written}, a copy of the recipe {name}" + (f". {about}" if about else ""))
    say(f"Next: kdcompress run {shlex.quote(str(written))}", style="bold")
    say("For photos of your own: kdcompress init PHOTOS", style="dim")
    return written
