from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcompress.cli.options import AS_PATH, data_option, json_option, root_option, size_option, threads_option


@click.command("evaluate")
@click.argument("files", nargs=-1, required=True, type=AS_PATH)
@data_option(required=True, help="Data set whose images are used: `kdcompress list data`.")
@root_option()
@size_option(help="Resize images to this square.  [default: what the file takes]")
@click.option(
    "--fit",
    type=click.Choice(["letterbox", "squash"]),
    help="How images of another shape get the size.  [default: as in the recipe that the file is from]",
)
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train", "all"]),
    help="[default: test where the data have it, else validation, else all images]",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="The figure: for classifiers accuracy, balanced-accuracy, f1 or auroc.  [default: the task's own]",
)
@threads_option(default=1)
@json_option
def command(files: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Score exported FILES on the test images of a data set.

    Each file runs in its own runtime. Classes are matched by name. Agreement is the share of images on which a file
    gives the same answer as the first file. The score has its 95 % interval, and so have the points that a file loses
    to the first; no difference is shown where that holds 0. A threshold that a file of two classes ships with decides
    its answers.

    A folder that has only test/ is enough. A folder that has only classes is scored whole. Where the data do not have
    the --split, the images are those that a run cuts from the training images for it.

    \b
    kdcompress evaluate student.onnx --data image-folder --root photographs
    """
    from kdcompress.console import say
    from kdcompress.pipelines.measure import evaluate_files
    from kdcompress.report import sure
    from kdcompress.report.show import echo, print_json, print_table

    results = evaluate_files(files, **options)
    if as_json:
        return print_json(results)
    rows = [{**row, **row["details"], "images": f"{row['n']:,} images of {row['of']}"} for row in results]
    titles = dict.fromkeys(f"{row['metric']['name']} {row['metric']['unit']}" for row in results)
    columns = {
        "file": "",
        "images": "scored on",
        "score": ", ".join(titles),
        **{name: f"{name} %" for row in results for name in row["metric"]["beside"]},
        "agreement": "agreement %",
        "seconds": "s",
    }
    print_table(rows, columns)
    for row in filter(sure.known, results):
        drop = sure.against(row["drop_to_first"], "the first file")
        interval = f"95 % interval {sure.between(row['score_low'], row['score_high'])} %"
        echo(f"{row['file']}: " + "; ".join(filter(None, [interval, drop])))
    for note in dict.fromkeys(note for row in results for note in row["notes"]):
        say(f"Note: {note}.")
