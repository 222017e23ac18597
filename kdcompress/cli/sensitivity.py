from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import AS_PATH, Number, as_typed, json_option, minutes_option, target_option
from kdcompress.errors import UsageError


@click.command("sensitivity")
@click.argument("run", type=AS_PATH)
@target_option("targets", metavar="NAME", help="May be repeated.  [default: the int8 targets of the run's recipe]")
@click.option("--images", type=click.IntRange(1), help="Use the first so many validation images.  [default: all]")
@click.option("--search", is_flag=True, help="Also choose which layers stay in float, by loss and by time.")
@click.option(
    "--max-drop",
    type=Number(0, 100),
    metavar="POINTS",
    help="Of --search: what the file may lose to fp32.  [default: the recipe's export.max_drop]",
)
@minutes_option("Of --search: what the choice may take, for a target.  [default: 10]")
@click.option("--html", "page", type=AS_PATH, metavar="PAGE", help="Also write a page with charts to this .html file.")
@json_option
def command(
    run: Path,
    targets: tuple[str, ...],
    images: int | None,
    search: bool,
    max_drop: float | None,
    minutes: float | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Show what int8 costs, layer by layer, for the student of RUN.

    RUN is the folder of a run. For each int8 target, each layer is in int8 alone once: the table has the points that
    are lost on validation images, and the error of the outputs. The curve has the score with more and more layers in
    int8. All figures are those of files that the target's own writer makes and its own runtime runs.

    --search chooses the layers that stay in float: the file is as fast as was found, loses no more than --max-drop and
    is never slower than fp32. The choice is written to RUN/TARGET-mixed.yaml, a target for a recipe's export.targets.

    Each file that was tried is kept. After an interruption, the same command goes on.

    \b
    kdcompress sensitivity runs/fashion-mnist-demo --html layers.html
    kdcompress sensitivity runs/fashion-mnist-mobilenet --target x86-vnni --search --max-drop 0.5
    """
    from kdcompress.console import out, percentage, say
    from kdcompress.pipelines.sensitivity import Sensitivity
    from kdcompress.report import sensitivity
    from kdcompress.report.show import print_json

    if not search and (max_drop, minutes) != (None, None):
        raise UsageError("--max-drop and --minutes are for --search.", where="sensitivity", hint="give --search too")
    asked = (max_drop, minutes or 10.0) if search else None
    job = Sensitivity(run, targets, images, asked, as_typed())
    job.check()
    sensitivity.check_page(page)
    with percentage() as progress:
        document = job.run(progress)
    if as_json:
        print_json(document)
    else:
        sensitivity.print_sensitivity(document, out)
    for path in sensitivity.written(document, page):
        say(f"Written: {path}")
