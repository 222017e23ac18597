from __future__ import annotations

import shlex
from typing import Any

import click

from kdcompress.cli.options import (
    AS_PATH,
    Number,
    as_typed,
    comma_separated,
    dry_run_option,
    effort_option,
    into,
    json_option,
    no_code_option,
    output_option,
    recipe_arguments,
    target_option,
    threads_option,
)


@click.command("plan")
@recipe_arguments
@target_option(
    "target", help="May be repeated.  [default: those targets of the recipe that are timed here]", **into("budgets")
)
@click.option(
    "--max-latency", "latency", metavar="TIME", help="Most time for one query (median): 500us, 2ms.", **into("budgets")
)
@click.option(
    "--max-size", "size", metavar="SIZE", help="Most bytes of the file: 500kB, 1.5MB, 512KiB.", **into("budgets")
)
@click.option(
    "--max-memory",
    "memory",
    metavar="SIZE",
    help="Most memory for the file and its largest layer.",
    **into("budgets"),
)
@click.option(
    "--max-drop",
    "drop",
    type=Number(0),
    metavar="POINTS",
    help="Most points that a file may score below the teacher. The run checks this.",
    **into("budgets"),
)
@threads_option(help="[default: the recipe's bench.threads, or 1]", **into("bench"))
@click.option(
    "--device",
    metavar="DEVICE",
    help="ssh:user@host or adb:SERIAL.  [default: the recipe's, or local]",
    **into("bench"),
)
@click.option(
    "--candidates",
    callback=comma_separated,
    help="Comma-separated: models, patterns (resnet*), zoo, mobile, prune=0.5.",
)
@click.option(
    "--top", type=click.IntRange(1), default=8, help="How many candidates inside the budgets to show and to write."
)
@effort_option("rapid")
@click.option("--folder", type=AS_PATH, help="Folder for what is built and timed.  [default: runs/plan-RECIPE'S NAME]")
@output_option("Recipe to write.  [default: RECIPE'S NAME-planned.yaml]")
@dry_run_option("Check everything, count the candidates, build and write nothing.")
@no_code_option
@json_option
def command(
    recipe: str, overrides: tuple[str, ...], top: int, dry_run: bool, no_code: bool, as_json: bool, **options: Any
) -> None:
    """Find the student that fits a budget, before training.

    Each candidate is built with random weights and timed, here or on --device. Speed and size do not depend on
    training. The plan takes the candidate inside the budgets that has the most capacity (multiply-accumulates). It
    writes a copy of RECIPE with this student. `run` checks the budgets as gates. After an interruption, the same
    command goes on.

    \b
    kdcompress plan fashion-mnist --target x86-vnni --max-latency 2ms --max-size 500kB --max-drop 1.0
    """
    from kdcompress.console import out, say
    from kdcompress.pipelines.catalogue import find_recipe
    from kdcompress.pipelines.jobs import PlanJob
    from kdcompress.pipelines.user_code import refuse_code
    from kdcompress.recipe import apply_override, read_recipe
    from kdcompress.report.planning import print_plan
    from kdcompress.report.show import print_json, print_table

    data = read_recipe(find_recipe(recipe))
    for override in overrides:
        apply_override(data, override)
    job = PlanJob(data, command=as_typed(), **options)
    if no_code:
        refuse_code(job.planning.recipe, job.planning.asked)
    job.check()
    if dry_run:
        columns = {"candidate": "", "macs": "MACs", "parameters": "", "state": ""}
        return print_json(job.counts()) if as_json else print_table(job.counts(), columns)
    plan, document = job.run()
    if as_json:
        print_json(document)
    else:
        print_plan(document, out, top)
    if job.propose(plan, top):
        say(f"Written: {job.output}, {job.record}")
        say(f"Next: kdcompress run {shlex.quote(str(job.output))}")
    else:
        say(f"Written: {job.record}")
        say("Next: give --max-latency or --max-size, and the plan proposes a student")
