from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from kdcompress.cli.options import (
    dry_run_option,
    json_option,
    minutes_option,
    no_code_option,
    output_option,
    recipe_arguments,
    target_option,
)


@click.command("run")
@recipe_arguments
@output_option("Run folder.  [default: runs/RECIPE'S NAME]")
@dry_run_option()
@minutes_option("Of PHOTOS: what it may take.  [default: 30]")
@target_option("targets", metavar="NAME", help="Of PHOTOS: build for this target.  [default: this machine's]")
@click.option("--force", multiple=True, metavar="STEP", help="Do this step again although it is done.")
@click.option("--profile", is_flag=True, help="Where the time of the student's training goes: a table and a trace.")
@no_code_option
@json_option
def command(
    recipe: str,
    overrides: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    minutes: float | None,
    targets: tuple[str, ...],
    force: tuple[str, ...],
    profile: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Distil, export, measure and report what RECIPE describes.

    RECIPE is a YAML file or the name of one that comes with kdcompress. A folder of photos in its
    place gets a recipe first, as `kdcompress init` writes one, and is run. OVERRIDES are written
    key.sub=value; of two for one key the last counts. Run again, it does nothing that is done
    already; killed, it goes on where it was.

    \b
    kdcompress run photos --minutes 30
    kdcompress run pipelines/recipes/fashion-mnist.yaml train.epochs=3 export.targets=[x86-vnni]
    """
    from kdcompress.pipelines.catalogue import find_recipe
    from kdcompress.pipelines.starter.argument import is_photos, refuse_options
    from kdcompress.pipelines.user_code import refuse_code
    from kdcompress.recipe import load_recipe

    if is_photos(recipe):
        from kdcompress.pipelines.starter.jobs import PhotosRun

        photos = PhotosRun(Path(recipe), output, minutes, targets)
        loaded, output = photos.recipe(overrides, dry_run), photos.folder
    else:
        refuse_options("run RECIPE", recipe, minutes, targets)
        loaded = load_recipe(find_recipe(recipe), overrides)
    if no_code:
        refuse_code(loaded)
    typed = shlex.join(["kdcompress", "run", recipe, *overrides])
    perform(loaded, output or Path("runs") / loaded.name, typed, dry_run, as_json, force, profile)


def perform(
    recipe: Any,
    folder: Path,
    typed: str,
    dry_run: bool,
    as_json: bool,
    force: tuple[str, ...] = (),
    profile: bool = False,
) -> None:
    """What `run` and `export` do with a recipe."""
    from kdcompress.pipelines.jobs import RunJob
    from kdcompress.report.show import print_steps, show_and_write

    job = RunJob(recipe, folder, typed, force, profile)
    job.check()
    if dry_run:
        return print_steps(job.states(), as_json)
    job.run(lambda document: show_and_write(document, folder, as_json))
