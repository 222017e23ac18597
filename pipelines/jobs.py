"""The jobs that the command line gives: each is checked whole, then done in its folder, and says what it comes to."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcompress.artifact import write_text
from kdcompress.console import say
from kdcompress.distributed import is_main_process
from kdcompress.errors import KDCompressError, unknown_name
from kdcompress.ours import Ours
from kdcompress.pipelines.checks import check_folder, check_profile
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.plan.planning import Plan, Planning
from kdcompress.pipelines.plan.write import asked_for, check_output, write_recipe
from kdcompress.pipelines.provenance import save_recipe
from kdcompress.pipelines.steps.names import trained
from kdcompress.pipelines.sweep import Sweep, choose
from kdcompress.pipelines.tournament import Tournament
from kdcompress.pipelines.verdict import failures
from kdcompress.recipe import Recipe
from kdcompress.report.comparison import write_comparison
from kdcompress.training.profile import table


class RunJob:
    """A recipe's run, after the tournament of its candidates where it has one. ``force``: names of steps that are done
    again. With ``profile`` the folder of that name tells where the time of the student's training went."""

    def __init__(
        self, recipe: Recipe, folder: Path, command: str = "", force: Sequence[str] = (), profile: bool = False
    ):
        self.recipe, self.folder, self.force = recipe, folder, force
        self.profile = folder / "profile" if profile else None
        self.compression = Compression(recipe, folder, command)
        self.tournament = Tournament(recipe, folder, command) if recipe.search.candidates else None

    def check(self) -> None:
        """Raises UsageError or RuntimeMissingError for what can be known to fail. Writes nothing."""
        self.compression.check(ships=False)
        check_folder(self.recipe, self.folder, self.profile)
        steps = self.compression.names()
        for name in self.force:
            if name not in steps:
                raise unknown_name("step", name, steps, where="--force")
        self.compression.check_exports()  # which takes longest
        if self.tournament:
            self.tournament.check()

    def states(self) -> list[tuple[str, str]]:
        """(step, "done", "to do" or "not here"), with nothing run or written."""
        states = {str(name): state for name, state in self.compression.states().items()}
        states |= {name: "to do" for name in self.force if states[name] == "done"}
        return [*(self.tournament.states() if self.tournament else ()), *states.items()]

    def run(self, publish: Callable[[dict[str, Any]], None]) -> None:
        """Does what is not done yet; ``publish`` gets the report while the folder is still held. Raises
        KDCompressError for what may not ship, after all that."""
        if not is_main_process():
            return self.compression.train(self.force)
        with self.compression.folder.locked():
            save_recipe(self.recipe, self.folder)
            compression, search = self.compression, {}
            if self.tournament:
                winner, search["search"] = self.tournament.run()
                compression = self.tournament.compression(winner)
            if self.profile:
                state = compression.states()[trained("student")]
                check_profile(compression.networks, self.folder, state, self.force)
            document = compression.run(self.force, self.profile) | search
            publish(document)
            compression.tracking.report(document, compression.done[trained("student")].key)
            if self.profile:
                student = next(each for each in document["training"] if each["role"] == "student")
                say(f"\nTime of the student's training ({self.profile}):\n\n{table(student['sections'])}")
        if found := failures(document):
            raise KDCompressError(
                "The run finished, but not everything may ship:\n" + "\n".join(f"  - {each}" for each in found)
            )


class CompareJob:
    """Trainings of a recipe's student with several methods, by their ``labels``, and ``seeds``; none: the recipe's."""

    def __init__(self, recipe: Recipe, folder: Path, labels: Sequence[str], seeds: int | None, command: str):
        chosen, seeds = choose(recipe, labels), seeds or recipe.compare.seeds
        asked = shlex.join(["--methods", ",".join(chosen), "--seeds", str(seeds)])
        self.folder, self.sweep = folder, Sweep(recipe, folder, chosen, seeds, f"{command} {asked}")

    def check(self) -> None:
        """Raises UsageError for what can be known to fail."""
        self.sweep.check()
        Ours(self.folder).check(f"compare.{kind}" for kind in ("json", "md", "html"))

    def run(self, workers: int = 1, scheduler: str | None = None) -> tuple[dict[str, Any], list[Path]]:
        """Trains what is not trained yet; the comparison, and the files that it was written to."""
        with self.sweep.compression(*self.sweep.trials[0]).folder.locked():
            document = self.sweep.run(workers, scheduler)
            return document, write_comparison(document, self.folder)

    def judge(self, document: Mapping[str, Any]) -> None:
        """Raises KDCompressError where a training failed."""
        failed = [f"  - {t['label']} seed {t['seed']}: {t['error']}" for t in document["trials"] if "error" in t]
        if failed:
            raise KDCompressError("Not every training succeeded:\n" + "\n".join(failed))


class PlanJob:
    """A plan for ``data``, a recipe as it was written, with these ``budgets`` and ``bench`` over its own.
    ``candidates``: names and patterns; none: the defaults. ``output``: the recipe that is written; its record,
    .plan.json, is beside it."""

    def __init__(
        self,
        data: dict[str, Any],
        budgets: dict[str, Any],
        bench: dict[str, Any],
        candidates: Sequence[str],
        effort: str,
        folder: Path | None = None,
        output: Path | None = None,
        command: str = "",
    ):
        recipe, names = asked_for(data, budgets, bench), [name for name in candidates if name]
        self.data = data
        self.output = output or Path(f"{recipe.name}-planned.yaml")
        self.record = self.output.with_suffix(".plan.json")
        self.planning = Planning(recipe, folder or Path("runs") / f"plan-{recipe.name}", names, effort, command)

    def check(self) -> None:
        """Raises UsageError or RuntimeMissingError for what can be known to fail."""
        check_output(self.output, self.record)
        self.planning.check()

    def counts(self) -> list[dict[str, Any]]:
        """What is known of each candidate before anything is built."""
        return [each.row() for each in self.planning.candidates]

    def run(self) -> tuple[Plan, dict[str, Any]]:
        """Builds and measures what is not yet; the plan, and its document, which is in the record too."""
        with self.planning.folder.locked():
            found = self.planning.run()
        document = found.document()
        write_text(self.record, json.dumps(document, indent=1, default=str))
        return found, document

    def propose(self, plan: Plan, most: int) -> bool:
        """Writes the recipe with the student that the plan proposes, and at most so many candidates; False where it
        had no budget to propose one by. Raises KDCompressError where no candidate is inside the budgets."""
        if inside := plan.inside()[:most]:
            write_recipe(self.data, self.planning.recipe, inside, self.output, self.planning.command)
            return True
        if plan.limited:
            raise plan.nothing_fits()
        return False
