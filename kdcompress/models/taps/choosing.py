"""Which calls of a dry run give the stages: those that the user names, the network declares, or the rule finds."""

from __future__ import annotations

from collections.abc import Sequence

from kdcompress.errors import UsageError
from kdcompress.models.taps.declared import declared
from kdcompress.models.taps.dry_run import DryRun
from kdcompress.models.taps.named import named
from kdcompress.models.taps.rule import by_rule
from kdcompress.models.taps.table import Choice


def chosen(run: DryRun, paths: Sequence[str] = ()) -> Choice:
    """Raises UsageError for a path that names no module, or none with a map, where a map that the network declares is
    no module's output, and where no stage is found."""
    paths = paths or getattr(run.model, "stage_paths", ())
    choice = named(run, paths) if paths else declared(run) or by_rule(run.calls)
    if not choice.stages:
        raise UsageError(
            "No stage was found: no module of the network gives a map [N, C, H, W].",
            where=type(run.model).__name__,
            hint="name the module paths in the recipe (student.taps, teacher.taps), or use a method on logits",
        )
    return choice
