from __future__ import annotations

from pathlib import Path

import click

from kdcompress.cli.options import output_option


@click.command("init")
@click.argument("recipe", default="fashion-mnist-demo")
@output_option("[default: RECIPE.yaml]")
def command(recipe: str, output: Path | None) -> None:
    """Copy a starter RECIPE into this folder."""
    from kdcompress.pipelines.catalogue import copy_recipe
    from kdcompress.report.show import echo

    echo(copy_recipe(recipe, output))
