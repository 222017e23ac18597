from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import as_typed, minutes_option, output_option, target_option


@click.command("init")
@click.argument("what", default="fashion-mnist-demo", metavar="[PHOTOS|RECIPE]")
@output_option("The recipe that is written.  [default: PHOTOS.yaml or RECIPE.yaml]")
@minutes_option("PHOTOS: what a run may take.  [default: 30]")
@target_option("targets", metavar="NAME", help="PHOTOS: build for this target.  [default: this machine's]")
@click.option("--force", is_flag=True, help="PHOTOS: write over a file that is there.")
def command(what: str, output: Path | None, minutes: float | None, targets: tuple[str, ...], force: bool) -> None:
    """Write a first recipe for a folder of photos, or copy one.

    PHOTOS is a folder with a folder of images for each class, or with train, val and test folders
    of those, or with a labels.csv. It is looked at, this machine is measured for some seconds, and
    a recipe is written whose run fits the minutes. RECIPE is a name of `kdcompress list recipes`, which is copied; with
    neither, fashion-mnist-demo is.

    \b
    kdcompress init photos -o mine.yaml --minutes 30
    kdcompress init fashion-mnist-demo -o mine.yaml
    """
    from kdcompress.pipelines.starter.argument import is_photos, refuse_options
    from kdcompress.pipelines.starter.copy import copy
    from kdcompress.report.show import echo

    if is_photos(what, any_file=False):
        from kdcompress.pipelines.starter.jobs import init

        return echo(init(Path(what), output, minutes, targets, force, as_typed()))
    refuse_options("init RECIPE", what, minutes, targets, force)
    echo(copy(what, output))
