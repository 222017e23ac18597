from __future__ import annotations

import shlex
from pathlib import Path

import click

from kdcompress.cli.options import (
    comma_separated,
    dry_run_option,
    json_option,
    no_code_option,
    output_option,
    recipe_arguments,
)


@click.command("compare")
@recipe_arguments
@click.option(
    "-m",
    "--methods",
    callback=comma_separated,
    help="Comma-separated names of methods, or labels of the recipe's `compare`, or all.",
)
@click.option("-s", "--seeds", type=click.IntRange(1), help="Trainings of each method.  [default: the recipe's, or 3]")
@click.option("-w", "--workers", type=click.IntRange(1), default=1, help="Trainings at once on this machine.")
@click.option(
    "--scheduler", metavar="ADDRESS", help="Share the trainings among the workers of this Dask scheduler (tcp://...)."
)
@output_option("Folder.  [default: runs/compare-RECIPE'S NAME]")
@dry_run_option()
@no_code_option
@json_option
def command(
    recipe: str,
    overrides: tuple[str, ...],
    methods: list[str],
    seeds: int | None,
    workers: int,
    scheduler: str | None,
    output: Path | None,
    dry_run: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Train RECIPE's student with several methods and seeds.

    The table says which gain is more than noise.

    All methods share one teacher. Run the command again after an interruption, or with more methods or seeds: it
    trains only what is missing.

    \b
    kdcompress compare fashion-mnist --methods none,kd,reviewkd --seeds 3 train.images=54000
    """
    from kdcompress.console import out, say
    from kdcompress.pipelines.catalogue import find_recipe
    from kdcompress.pipelines.jobs import CompareJob
    from kdcompress.pipelines.user_code import refuse_code
    from kdcompress.recipe import load_recipe
    from kdcompress.report.comparison import print_comparison
    from kdcompress.report.show import print_json, print_steps

    loaded = load_recipe(find_recipe(recipe), overrides)
    if no_code:
        refuse_code(loaded)
    typed = shlex.join(["kdcompress", "compare", recipe, *overrides])
    job = CompareJob(loaded, output or Path("runs") / f"compare-{loaded.name}", methods, seeds, typed)
    job.check()
    if dry_run:
        return print_steps(job.sweep.states(), as_json)
    document, written = job.run(workers, scheduler)
    if as_json:
        print_json(document)
    else:
        print_comparison(document, out)
        say("Written: " + ", ".join(map(str, written)))
    job.judge(document)
