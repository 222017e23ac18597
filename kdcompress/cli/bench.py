from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcompress.cli.options import (
    AS_PATH,
    as_typed,
    data_option,
    effort_option,
    json_option,
    root_option,
    threads_option,
)
from kdcompress.errors import KDCompressError, UsageError


@click.command("bench")
@click.argument("files", nargs=-1, type=AS_PATH)
@threads_option(default=1)
@effort_option("quick")
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "multi-stream", "offline", "cold-start"]),
    default="single-stream",
    help="single-stream: 1 image a query. multi-stream: 8. offline: most images a second. cold-start: a new process.",
)
@click.option("--cold-start", "scenario", flag_value="cold-start", help="The same as --scenario cold-start.")
@click.option("--device", default="local", help="Device that runs the files: NAME or NAME:ADDRESS.")
@click.option(
    "--baseline", help="Compare all files to this one: a file, or its name in the table.  [default: the first]"
)
@data_option(help="Data set for real inputs.  [default: random pixels]")
@root_option()
@click.option(
    "--export",
    "exports",
    multiple=True,
    metavar="PATH",
    help="Also write the result to this .md, .csv, .json or .html file.",
)
@click.option(
    "--compare", nargs=2, type=AS_PATH, metavar="OLD NEW", help="Compare two .json results: is NEW slower than OLD?"
)
@json_option
def command(
    files: tuple[Path, ...], exports: tuple[str, ...], compare: tuple[Path, Path] | None, as_json: bool, **options: Any
) -> None:
    """Measure the latency of exported FILES, in turns.

    FILES are artefacts of any format, ONNX and other model files from elsewhere, or run folders. Each ratio has a 95 %
    interval. A file wins only where this interval excludes 1. --compare ends with exit code 1 where NEW is slower than
    OLD by more than noise.

    \b
    kdcompress bench runs/fashion-mnist-demo --export today.json
    kdcompress bench a.onnx b.onnx student.pte --threads 1 --effort quick
    kdcompress bench --compare yesterday.json today.json
    """
    from kdcompress.console import out, percentage, say
    from kdcompress.pipelines.measure import bench_files
    from kdcompress.report import latency
    from kdcompress.report.show import print_json

    if bool(files) == bool(compare):
        raise UsageError("Give files to measure, or two measurements to --compare.", where="bench")
    if compare:
        if exports:
            raise UsageError("A comparison cannot be exported.", where="--export", hint="--json prints it as JSON")
        return compare_sessions(*compare, as_json)
    paths = [latency.export_path(asked) for asked in exports]
    with percentage() as progress:
        document = bench_files(files, **options, command=as_typed(), progress=progress)
    for path in paths:
        latency.export(document, path)
    if as_json:
        print_json(document)
    else:
        latency.print_latency(document, out)
        for sentence in latency.sentences(document):
            say(sentence)
    if document["interrupted"]:
        raise KeyboardInterrupt


def compare_sessions(old: Path, new: Path, as_json: bool) -> None:
    from kdcompress.bench.regression import compare
    from kdcompress.console import out, say
    from kdcompress.pipelines.measure import load_session
    from kdcompress.report.latency import print_changes
    from kdcompress.report.show import print_json
    from kdcompress.untrusted import what_it_says

    sessions = load_session(old), load_session(new)
    with what_it_says(new, "One of the two files is not a measurement, or is damaged."):
        found = compare(*sessions)
        if as_json:
            print_json(found)
        else:
            print_changes(found, out)
            for line in found["notes"]:
                say(line)
    if found["regressions"]:
        raise KDCompressError(f"Slower than before, by more than noise: {', '.join(found['regressions'])}.")
