from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcompress.cli.options import (
    AS_PATH,
    as_typed,
    data_option,
    dry_run_option,
    into,
    json_option,
    no_code_option,
    output_option,
    root_option,
    size_option,
    target_option,
)


@click.command("export")
@click.argument("weights", type=AS_PATH)
@click.option(
    "--weights-key",
    metavar="KEY",
    help="Name of the weights to take, such as `ema`, where the file has several.",
    **into("student"),
)
@click.option(
    "--model",
    required=True,
    help="Architecture of the network: `kdcompress list models`, or package.module:callable.",
    **into("student"),
)
@click.option("--task", default="classification", help="What the network is for: `kdcompress list tasks`.")
@data_option(required=True, help="Data set for calibration and scores: `kdcompress list data`.", **into("data"))
@root_option(**into("data"))
@size_option(help="Resize images to this square (image-folder, image-labels, webdataset).", **into("data"))
@click.option(
    "--mean",
    help="Mean of the pixels, scaled to 0..1: 0.485,0.456,0.406, or one number. none: pixels stay 0..255.",
    **into("student"),
)
@click.option(
    "--std", help="Standard deviation, written like --mean. --mean 0 --std 1: pixels stay 0..1.", **into("student")
)
@target_option("targets", help="May be repeated: `kdcompress list targets`.", **into("export"))
@click.option("--layout", type=click.Choice(["uint8-nhwc", "float-nchw"]), default="uint8-nhwc", **into("export"))
@click.option("--batch", type=int, help="Fixed batch size.  [default: dynamic]", **into("export"))
@click.option("--opset", type=int, default=20, **into("export"))
@output_option("Run folder.  [default: runs/export-WEIGHTS' NAME]")
@dry_run_option()
@no_code_option
@json_option
def command(
    weights: Path,
    task: str,
    data: dict[str, Any],
    student: dict[str, Any],
    export: dict[str, Any],
    output: Path | None,
    dry_run: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Export a trained network without distilling it.

    Every file is checked and measured as in a run. The normalisation goes into the files. Without --mean and
    --std it comes from the weights' file. Where that file has none, it is computed from the
    training images.

    \b
    kdcompress export student.safetensors --model resnet8 --data fashion-mnist --target x86-vnni
    """
    from kdcompress.artifact import clean_name
    from kdcompress.cli.run import perform
    from kdcompress.pipelines.user_code import refuse_code
    from kdcompress.recipe import validate_recipe

    name, student = clean_name(f"export-{weights.stem}"), {**student, "weights": weights}
    sections = {"task": task, "data": data, "student": student, "train": None, "export": export}
    recipe = validate_recipe({"name": name, **sections}, where="the command's options")
    if no_code:
        refuse_code(recipe)
    perform(recipe, output or Path("runs") / recipe.name, as_typed(), dry_run, as_json)
