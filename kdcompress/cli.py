"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from kdcompress import __version__
from kdcompress.errors import KDCompressError, UsageError, cut, shown, unknown_name

PathArgument = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
no_code_option = click.option("--no-code", is_flag=True, help="Refuse what names code of its own: package.module:NAME.")


def echo(text: object, err: bool = False) -> None:
    """Prints a line; all that is not printed by kdcompress.console is printed here."""
    click.echo(shown(str(text)), err=err)


class Cli(click.Group):
    """Errors meant for users are printed without a traceback and end with their own exit code. What steers a terminal
    is shown as escapes, also in a traceback and in a warning of a library's."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        import faulthandler
        import traceback
        import warnings

        if sys.__stderr__ is not None and not faulthandler.is_enabled():  # a library's crash is not silent
            faulthandler.enable(sys.__stderr__)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal may not have every character
        warnings.formatwarning = lambda message, category, *_, **__: shown(f"{category.__name__}: {message}\n")
        sys.excepthook = lambda *error: echo("".join(traceback.format_exception(*error)).rstrip(), err=True)
        return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KDCompressError as error:
            echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG):
                raise
            echo(f"Error: A file could not be written or read.\n  where: {error.filename}", err=True)
            echo(f"  got: {error.strerror}\n  next: free some space, or choose another place", err=True)
            ctx.exit(1)
        except click.ClickException as error:
            vars(error)["message"] = shown(cut(error.message))
            raise
        except KeyboardInterrupt:
            echo("Interrupted. What is finished is kept; the same command goes on from there.", err=True)
            ctx.exit(130)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Distil a vision model, export it, and measure every file that ships.

    \b
    kdcompress run fashion-mnist-demo      the whole job, from data to report
    kdcompress run RECIPE --dry-run        what it would do
    kdcompress doctor                      what works on this machine
    """


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("-o", "--output", type=PathArgument, help="Run folder.  [default: runs/RECIPE'S NAME]")
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, write nothing.")
@click.option("--force", multiple=True, metavar="STAGE", help="Do this stage again although it is done.")
@click.option("--profile", is_flag=True, help="Where the time of the student's training goes: a table and a trace.")
@no_code_option
@json_option
def run(
    recipe: str,
    overrides: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    force: tuple[str, ...],
    profile: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Distil, export, measure and report what RECIPE describes.

    RECIPE is a YAML file or the name of one that comes with kdcompress. OVERRIDES are written
    key.sub=value; of two for one key the last counts. Run again, it does nothing that is done
    already; killed, it goes on where it was.

    \b
    kdcompress run pipelines/recipes/fashion-mnist.yaml train.epochs=3 export.targets=[x86-vnni]
    """
    from kdcompress.recipe import load_recipe

    loaded = load_recipe(find_recipe(recipe), overrides)
    _check_code(loaded, no_code)
    command = shlex.join(["kdcompress", "run", recipe, *overrides])
    _run(loaded, output or Path("runs") / loaded.name, command, dry_run, force, as_json, profile)


def _check_code(recipe: Any, no_code: bool, further: tuple[str, ...] = ()) -> None:
    """Raises UsageError where code is named, in the recipe or ``further``, and none may be. Nothing is imported yet."""
    from kdcompress.recipe import code_of

    named = [*code_of(recipe), *(name for name in further if ":" in name)]
    if no_code and named:
        hint = "leave --no-code out once you have read that code: it runs with all that you may do"
        raise UsageError("The recipe names code of its own.", where="--no-code", got=", ".join(named)[:400], hint=hint)


def _run(
    recipe: Any,
    output: Path,
    command: str,
    dry_run: bool,
    force: tuple[str, ...],
    as_json: bool,
    profile: bool = False,
) -> None:
    """What `run` and `export` share: check, do, report, and the exit code of what was found."""
    from kdcompress.pipelines.compress import Compression, is_main_process, save_recipe
    from kdcompress.pipelines.verdict import failures

    compression = Compression(recipe, output, command)
    compression.check()
    compression.check_folder(output / "profile" if profile else None)
    tournament = None
    if recipe.search.candidates:
        from kdcompress.pipelines.tournament import Tournament

        tournament = Tournament(recipe, output, command)
        tournament.check()
    names = [*(step.name for step in compression.steps()), "latency"]
    for name in force:
        if name not in names:
            raise unknown_name("stage", name, names, where="--force")
    if dry_run:
        return _show_plan([*(tournament.plan() if tournament else []), *compression.plan()], as_json)
    if not is_main_process():
        return compression.train_only(frozenset(force))
    with compression.folder.locked():
        save_recipe(recipe, output)
        search = {}
        if tournament:
            winner, search["search"] = tournament.run()
            compression = tournament.compression(winner)
        if profile:
            compression.check_profile(frozenset(force))
            compression.profile = output / "profile"
        document = compression.run(frozenset(force)) | search
        _write_and_show(document, output, as_json)
        if compression.profile:
            from kdcompress.training.profile import table

            student = next(each for each in document["training"] if each["role"] == "student")
            shown = table(student["sections"])
            echo(f"\nTime of the student's training ({compression.profile}):\n\n{shown}", err=True)
    if found := failures(document):
        raise KDCompressError("The run finished, and not all of it may ship:\n" + "\n".join(f"  - {f}" for f in found))


def _show_plan(plan: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        return _print_json([{"stage": name, "state": state} for name, state in plan])
    for name, state in plan:
        echo(f"{state:<8} {name}")


def _write_and_show(document: dict[str, Any], folder: Path, as_json: bool) -> None:
    from kdcompress.report.write import write_report

    _show_report(document, as_json)
    written = write_report(document, folder)
    if not as_json:
        echo("Written: " + ", ".join(str(path) for path in written), err=True)


def _show_report(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return _print_json(document)
    from kdcompress.console import out
    from kdcompress.report.terminal import print_report

    print_report(document, out)


def _print_json(value: Any) -> None:
    try:
        text = json.dumps(value, indent=1, default=str, allow_nan=False)
    except ValueError:
        from kdcompress.report.write import finite

        text = json.dumps(finite(value), indent=1, default=str)
    click.echo(text.replace("\x7f", "\\u007f"))  # all others that are not ASCII are escapes already


def find_recipe(name: str) -> Path:
    """The path of a recipe file, or of the shipped recipe of that name."""
    path = Path(name)
    try:
        if path.suffix in (".yaml", ".yml") or path.exists():
            return path
    except OSError as error:  # such as a name longer than a system takes
        raise UsageError("The recipe cannot be read.", where=name[:80], got=error.strerror) from error
    from kdcompress.pipelines.catalogue import shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise unknown_name("recipe", name, shipped)
    return shipped[name]


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("-m", "--methods", "labels", help="Comma-separated: names of methods or of the recipe's `compare`; all.")
@click.option("-s", "--seeds", type=click.IntRange(1), help="Trainings of each.  [default: the recipe's, or 3]")
@click.option("-w", "--workers", type=click.IntRange(1), default=1, help="Trainings at once on this machine.")
@click.option("--scheduler", metavar="ADDRESS", help="Share them among the workers of a Dask scheduler (tcp://...).")
@click.option("-o", "--output", type=PathArgument, help="Folder.  [default: runs/compare-RECIPE'S NAME]")
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, write nothing.")
@no_code_option
@json_option
def compare(
    recipe: str,
    overrides: tuple[str, ...],
    labels: str | None,
    seeds: int | None,
    workers: int,
    scheduler: str | None,
    output: Path | None,
    dry_run: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Train RECIPE's student with several methods and seeds.

    Says which gain is more than noise.

    One teacher serves all. Interrupted, or given more methods or seeds, it trains what is missing.

    \b
    kdcompress compare fashion-mnist --methods none,kd,reviewkd --seeds 3 train.images=54000
    """
    from kdcompress.ours import Ours
    from kdcompress.pipelines.sweep import Sweep, choose
    from kdcompress.recipe import load_recipe
    from kdcompress.report.comparison import print_comparison, write_comparison

    loaded = load_recipe(find_recipe(recipe), overrides)
    _check_code(loaded, no_code)
    chosen = choose(loaded, [label.strip() for label in labels.split(",")] if labels else [])
    seeds = seeds or loaded.compare.seeds
    asked = ["--methods", ",".join(chosen), "--seeds", str(seeds)]
    folder = output or Path("runs") / f"compare-{loaded.name}"
    sweep = Sweep(loaded, folder, chosen, seeds, shlex.join(["kdcompress", "compare", recipe, *overrides, *asked]))
    sweep.check()
    Ours(folder).check(f"compare.{kind}" for kind in ("json", "md", "html"))
    if dry_run:
        return _show_plan(sweep.plan(), as_json)
    with sweep.compression(*sweep.trials[0]).folder.locked():
        document = sweep.run(workers, scheduler)
        written = write_comparison(document, folder)
    if as_json:
        _print_json(document)
    else:
        from kdcompress.console import out

        print_comparison(document, out)
        echo("Written: " + ", ".join(str(path) for path in written), err=True)
    if failed := [f"{t['label']} seed {t['seed']}: {t['error']}" for t in document["trials"] if "error" in t]:
        raise KDCompressError("Not every training succeeded:\n" + "\n".join(f"  - {f}" for f in failed))


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option(
    "--target", "targets", multiple=True, help="May be repeated.  [default: the recipe's that are timed here]"
)
@click.option("--max-latency", metavar="TIME", help="Median of one query: 500us, 2ms.")
@click.option("--max-size", metavar="SIZE", help="Of the file: 500kB, 1.5MB, 512KiB.")
@click.option("--max-memory", metavar="SIZE", help="File and largest layer: what any runtime has to hold.")
@click.option(
    "--max-drop", type=click.FloatRange(0), metavar="POINTS", help="Accuracy lost to the teacher, for the run."
)
@click.option("--threads", type=click.IntRange(1), help="[default: the recipe's bench.threads, or 1]")
@click.option("--device", metavar="DEVICE", help="ssh:user@host or adb:SERIAL.  [default: the recipe's, or local]")
@click.option("--candidates", help="Comma-separated: models, patterns (resnet*), zoo, mobile, prune=0.5.")
@click.option("--top", type=click.IntRange(1), default=8, help="Candidates inside the budgets to show and to keep.")
@click.option("--effort", type=click.Choice(["rapid", "quick", "normal"]), default="rapid")
@click.option("--folder", type=PathArgument, help="What is built and timed.  [default: runs/plan-RECIPE'S NAME]")
@click.option("-o", "--output", type=PathArgument, help="The recipe it writes.  [default: RECIPE'S NAME-planned.yaml]")
@click.option("--dry-run", is_flag=True, help="Check everything, count the candidates, build and write nothing.")
@no_code_option
@json_option
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    targets: tuple[str, ...],
    max_latency: str | None,
    max_size: str | None,
    max_memory: str | None,
    max_drop: float | None,
    threads: int | None,
    device: str | None,
    candidates: str | None,
    top: int,
    effort: str,
    folder: Path | None,
    output: Path | None,
    dry_run: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Find the student that fits a budget, before training.

    Candidates are built with random weights and timed, here or on --device: neither speed nor size depends on
    training. The one with the most capacity (multiply-accumulates) inside the budgets is put into a copy of RECIPE, and
    `run` holds the budgets as gates. Interrupted, it goes on where it was.

    \b
    kdcompress plan fashion-mnist --target x86-vnni --max-latency 2ms --max-size 500kB --max-drop 1.0
    """
    from kdcompress.artifact import write_text
    from kdcompress.pipelines.plan import Planning, asked_for, check_output, write_recipe
    from kdcompress.recipe import apply_override, read_recipe

    data = read_recipe(find_recipe(recipe))
    for override in overrides:
        apply_override(data, override)
    given = {"target": list(targets), "latency": max_latency, "size": max_size, "memory": max_memory, "drop": max_drop}
    bench = {"threads": threads, "device": device}
    loaded = asked_for(
        data,
        {key: value for key, value in given.items() if value not in (None, [])},
        {key: value for key, value in bench.items() if value is not None},
    )
    output = output or Path(f"{loaded.name}-planned.yaml")
    record = output.with_suffix(".plan.json")
    asked = [name.strip() for name in candidates.split(",") if name.strip()] if candidates else []
    _check_code(loaded, no_code, tuple(asked))
    command = shlex.join(["kdcompress", *sys.argv[1:]])
    planning = Planning(loaded, folder or Path("runs") / f"plan-{loaded.name}", asked, effort, command)
    check_output(output, record)
    planning.check()
    if dry_run:
        rows = [
            {"candidate": each.name, "state": each.out or "to be built", **each.counts()} for each in planning.looks
        ]
        columns = {"candidate": "", "macs": "MACs", "parameters": "", "state": ""}
        return _print_json(rows) if as_json else _print_table(rows, columns)
    with planning.folder.locked():
        document = planning.run()
    write_text(record, json.dumps(document, indent=1, default=str))
    if as_json:
        _print_json(document)
    else:
        from kdcompress.console import out
        from kdcompress.report.planning import print_plan

        print_plan(document, out, top)
    if document["proposed"]:
        write_recipe(data, planning, top, output)
        echo(f"Written: {output}, {record}", err=True)
        echo(f"Next: kdcompress run {shlex.quote(str(output))}", err=True)
    elif planning.limited:
        raise planning.nothing_fits()
    else:
        echo(f"Written: {record}", err=True)
        echo("Next: --max-latency or --max-size has a student proposed", err=True)


@main.command()
@click.argument("weights", type=PathArgument)
@click.option("--weights-key", metavar="KEY", help="Which of several weights in the file, such as `ema`.")
@click.option("--model", required=True, help="Its architecture: `kdcompress list models`, or package.module:callable.")
@click.option("--data", "source", required=True, help="Data set for calibration and accuracy: `kdcompress list data`.")
@click.option("--root", type=PathArgument, help="Where the data set's files are.")
@click.option("--size", type=int, help="Resize images to this square (image-folder, webdataset).")
@click.option(
    "--mean", help="Of pixels in 0..1: 0.485,0.456,0.406, or one number; none: the network takes 0..255 as they are."
)
@click.option("--std", help="The same. Pixels of 0..1 as they are: --mean 0 --std 1.")
@click.option("--target", "targets", multiple=True, help="May be repeated: `kdcompress list targets`.")
@click.option("--layout", type=click.Choice(["uint8-nhwc", "float-nchw"]), default="uint8-nhwc")
@click.option("--batch", type=int, help="Fixed batch size.  [default: dynamic]")
@click.option("--opset", type=int, default=20)
@click.option("-o", "--output", type=PathArgument, help="Run folder.  [default: runs/export-WEIGHTS' NAME]")
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, write nothing.")
@no_code_option
@json_option
def export(
    weights: Path,
    weights_key: str | None,
    model: str,
    source: str,
    root: Path | None,
    size: int | None,
    mean: str | None,
    std: str | None,
    targets: tuple[str, ...],
    layout: str,
    batch: int | None,
    opset: int,
    output: Path | None,
    dry_run: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Export a trained network without distilling it.

    Every file is checked and measured as in a run. The normalisation goes into the files: without --mean and --std it
    is what the weights' file says, else the statistics of the training images.

    \b
    kdcompress export student.safetensors --model resnet8 --data fashion-mnist --target x86-vnni
    """
    from kdcompress.artifact import clean_name
    from kdcompress.recipe import validate_recipe

    recipe = validate_recipe(
        {
            "name": clean_name(f"export-{weights.stem}"),
            "data": {"source": source, "root": root, "size": size},
            "student": {
                "model": model,
                "weights": weights,
                "weights_key": weights_key,
                "mean": mean,
                "std": std,
            },
            "train": None,
            "export": {"targets": targets, "layout": layout, "batch": batch, "opset": opset},
        },
        where="the command's options",
    )
    _check_code(recipe, no_code)
    command = shlex.join(["kdcompress", *sys.argv[1:]])
    _run(recipe, output or Path("runs") / recipe.name, command, dry_run, (), as_json)


@main.command()
@click.argument("files", nargs=-1, required=True, type=PathArgument)
@click.option("--data", "source", required=True, help="Data set whose images are used: `kdcompress list data`.")
@click.option("--root", type=PathArgument, help="Where the data set's files are.")
@click.option("--size", type=int, help="Resize images to this square.  [default: what the file takes]")
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train", "all"]),
    help="[default: test where the data have it, else validation, else all images]",
)
@click.option("--threads", type=click.IntRange(1), default=1)
@json_option
def evaluate(
    files: tuple[Path, ...],
    source: str,
    root: Path | None,
    size: int | None,
    split: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Accuracy of exported FILES on the test images of a data set.

    Each runs in its own runtime. Classes are matched by name. Agreement is the share of images on which a file answers
    as the first one does.

    A folder with test/ alone will do; one of classes alone is scored whole. A split that the data lack is the one that
    a run cuts from the training images.

    \b
    kdcompress evaluate student.onnx --data image-folder --root photographs
    """
    from kdcompress.pipelines.measure import evaluate_files

    results = evaluate_files(files, source, root, size, threads, split)
    if as_json:
        return _print_json(results)
    rows = [{**row, "images": f"{row['n']:,} images of {row['of']}"} for row in results]
    columns = {"file": "", "images": "scored on", "accuracy": "accuracy %", "agreement": "agreement %", "seconds": "s"}
    _print_table(rows, columns)
    for note in dict.fromkeys(note for row in results for note in row["notes"]):
        echo(f"Note: {note}.", err=True)


@main.command()
@click.argument("files", nargs=-1, type=PathArgument)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--effort", type=click.Choice(["rapid", "quick", "normal"]), default="quick")
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "multi-stream", "offline", "cold-start"]),
    default="single-stream",
    help="Queries of one image, of 8, throughput at the best batch, or each query in a new process.",
)
@click.option("--cold-start", "scenario", flag_value="cold-start", help="The same as --scenario cold-start.")
@click.option("--device", default="local", help="Where they run: NAME or NAME:ADDRESS.")
@click.option("--baseline", help="What ratios are to: a file, or a name in the table.  [default: the first]")
@click.option("--data", "source", help="Data set for real inputs.  [default: random pixels]")
@click.option("--root", type=PathArgument, help="Where the data set's files are.")
@click.option("--export", "exports", multiple=True, metavar="PATH", help="Write .md, .csv, .json or .html, too.")
@click.option("--compare", nargs=2, type=PathArgument, metavar="OLD NEW", help="Two .json: is the new one slower?")
@json_option
def bench(
    files: tuple[Path, ...],
    threads: int,
    effort: str,
    scenario: str,
    device: str,
    baseline: str | None,
    source: str | None,
    root: Path | None,
    exports: tuple[str, ...],
    compare: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Latency of exported FILES and of run folders, measured in turns.

    FILES are artefacts of any format, ONNX and other model files from elsewhere, or run folders. Ratios have a 95 %
    interval, and there is a winner only where it excludes 1. --compare ends with 1 where NEW is slower than OLD by
    more than noise.

    \b
    kdcompress bench runs/fashion-mnist-demo --export today.json
    kdcompress bench a.onnx b.onnx student.pte --threads 1 --effort quick
    kdcompress bench --compare yesterday.json today.json
    """
    from rich.live import Live
    from rich.text import Text

    from kdcompress.console import err, out
    from kdcompress.pipelines.measure import bench_files
    from kdcompress.report import latency

    if bool(files) == bool(compare):
        raise UsageError("Give files to measure, or two measurements to --compare.", where="bench")
    if compare:
        if exports:
            raise UsageError("A comparison is printed, in JSON with --json; it is not exported.", where="--export")
        return _compare_sessions(compare, as_json)
    paths = [latency.export_path(asked) for asked in exports]
    command = shlex.join(["kdcompress", *sys.argv[1:]])
    options: dict[str, Any] = {"scenario": scenario, "device": device, "baseline": baseline, "command": command}
    # Not refreshed by a thread of its own, which would take its time from the queries.
    with Live(console=err, auto_refresh=False, transient=True) if err.is_terminal else nullcontext() as line:

        def progress(share: float, what: str) -> None:
            if line:
                line.update(Text(f"{share:4.0%} {what}"), refresh=True)

        document = bench_files(files, threads, effort, source, root, progress=progress, **options)
    for path in paths:
        latency.export(document, path)
    if as_json:
        _print_json(document)
    else:
        latency.print_latency(document, out)
        for sentence in latency.sentences(document):
            echo(sentence, err=True)
    if document["interrupted"]:
        raise KeyboardInterrupt


def _compare_sessions(paths: tuple[Path, Path], as_json: bool) -> None:
    from kdcompress.bench.regression import compare
    from kdcompress.console import out
    from kdcompress.pipelines.measure import load_session
    from kdcompress.report.latency import print_changes
    from kdcompress.untrusted import what_it_says

    old, new = (load_session(path) for path in paths)
    with what_it_says(paths[1], "This is no measurement, or it is damaged; or the other file is."):
        found = compare(old, new)
        if as_json:
            _print_json(found)
        else:
            print_changes(found, out)
            for line in found["notes"]:
                echo(line, err=True)
    if found["regressions"]:
        raise KDCompressError(f"Slower than before, by more than noise: {', '.join(found['regressions'])}.")


@main.command()
@click.argument("folder", type=PathArgument)
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Show the report of a finished run again.

    Its pages in FOLDER are written anew where they are as kdcompress left them.
    """
    from kdcompress.report.write import load_report
    from kdcompress.untrusted import what_it_says

    document = load_report(folder)
    with what_it_says(folder, "The report is damaged.", "`kdcompress run` makes it again"):
        try:
            _write_and_show(document, folder, as_json)
        except UsageError as error:  # it has been shown
            echo(f"The pages were not written anew: {error}", err=True)


@main.command()
@click.argument("folder", type=PathArgument)
@click.option("--target", "targets", multiple=True, help="May be repeated.  [default: what the report says ships]")
@click.option("-o", "--output", type=PathArgument, help="Where its folder is put.  [default: FOLDER/bundle]")
@click.option("--archive", is_flag=True, help="A .tar.gz beside it, the same bytes each time.")
@click.option("--sign", "key", type=PathArgument, metavar="KEY", help="Sign it with this ssh key, by ssh-keygen.")
@json_option
def bundle(
    folder: Path, targets: tuple[str, ...], output: Path | None, archive: bool, key: Path | None, as_json: bool
) -> None:
    """Pack an artefact of the run in FOLDER for those who use it.

    One folder with all that a device engineer needs and no need of kdcompress: the model, what goes in and comes out,
    a sample with its expected output, a self-check and examples.

    \b
    kdcompress bundle runs/fashion-mnist-demo --target x86-vnni --archive
    kdcompress bundle runs/fashion-mnist-demo --sign ~/.ssh/id_ed25519
    """
    from kdcompress.pipelines.bundle import bundle as write

    written = [str(path) for path in write(folder, targets, output, archive, key)]
    if as_json:
        return _print_json(written)
    echo("\n".join(written))


@main.command()
@click.argument("folder", metavar="BUNDLE", type=PathArgument)
@click.option("--signer", type=PathArgument, help="Public key(s) of whoever must have signed it, or allowed signers.")
@click.option("--no-run", is_flag=True, help="Check the files and the signature alone; no code of the bundle runs.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600, help="Seconds for the self-check.")
def verify(folder: Path, signer: Path | None, no_run: bool, timeout: float) -> None:
    """Whether a BUNDLE is whole and its model runs here as it should.

    Its list names every file and there is no other; then its own self-check runs in a process of its own. The list
    shows what was damaged on the way, not who made it: a bundle from elsewhere wants --signer, or --no-run.
    """
    from kdcompress.pipelines.verify import verify as check

    echo(check(folder, signer, not no_run, timeout))


@main.command()
@click.argument("file", type=PathArgument)
@click.option("--bisect", "other", type=PathArgument, help="An ONNX file of the same network, such as the fp32 parent.")
@click.option("--tolerance", type=float, help="Of --bisect, relative.  [default: by FILE's precision]")
@click.option("--taps", is_flag=True, help="FILE is a model's name: what can be tapped of it, what is, and why.")
@click.option("--size", type=click.IntRange(1), help="Of --taps: pixels.  [default: the model's own; zoo 32, else 224]")
@click.option("--channels", type=click.IntRange(1), help="Of --taps.  [default: 3]")
@click.option("--classes", type=click.IntRange(1), help="Of --taps.  [default: 10]")
@json_option
def inspect(
    file: Path,
    other: Path | None,
    tolerance: float | None,
    taps: bool,
    size: int | None,
    channels: int | None,
    classes: int | None,
    as_json: bool,
) -> None:
    """What is in a model FILE or folder.

    ONNX, .ort, engines, OpenVINO, ExecuTorch, LiteRT, MNN, ncnn, Core ML, files of weights, and the .json
    record beside an artefact.

    With --bisect: the first layer at which FILE differs from that other file, on random images.

    With --taps: the modules of a network, named as in a recipe (resnet8, timm/NAME, torchvision/NAME,
    package.module:callable), the maps that they give, and which are taken as its stages. Any of these
    paths can be written under `taps` in a recipe.
    """
    if taps:
        from kdcompress.models.taps.inspection import inspection

        if other or tolerance is not None:
            raise UsageError("A model's taps and files are inspected one at a time.", where="--taps, --bisect")
        facts = inspection(file.as_posix(), size, channels or 3, classes or 10)
        return _print_json(facts) if as_json else _print_taps(facts)
    if size or channels or classes:
        raise UsageError("A size, channels and classes go with --taps.", where="--size, --channels, --classes")
    if other:
        from kdcompress.export.apart import apart
        from kdcompress.export.bisect import report

        facts = apart(report, other, str(file), tolerance)
    elif tolerance is not None:
        raise UsageError("A tolerance goes with --bisect.", where="--tolerance")
    else:
        from kdcompress.export.describe import describe

        facts = describe(file)
    if as_json:
        return _print_json(facts)
    for line in _lines(facts):
        echo(line)


def _print_taps(facts: dict[str, Any]) -> None:
    rows = [
        {
            **call,
            "path": f"{call['path']} #{call['call']}" if call["call"] > 1 else call["path"],
            "map": "x".join(map(str, call["map"])) if call["map"] else None,
            "reduction": f"{call['reduction']:g}" if call["map"] else None,
        }
        for call in facts["calls"]
    ]
    for line in _lines({**facts, "input": "x".join(map(str, facts["input"])), "calls": len(rows)}):
        echo(line)
    _print_table(rows, {key: key for key in ("path", "kind", "map", "reduction", "tap", "why")})


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, item in ((_inline(key), item) for key, item in value.items()):
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{key}:")
            lines += [f"{indent}  " + _inline(", ".join(f"{k} {v}" for k, v in entry.items())) for entry in item]
        else:
            lines.append(f"{indent}{key}: {_inline(', '.join(map(str, item)) if isinstance(item, list) else item)}")
    return lines


def _inline(value: object) -> str:
    """On one line: what a file says cannot look like a line of ours."""
    return str(value).replace("\n", "\\n")


@main.command("list")
@click.argument("kind", type=click.Choice(["models", "methods", "data", "targets", "recipes"]))
@click.option("--cost", is_flag=True, help="Of methods: passes and arithmetic of a step, in place of the options.")
@json_option
def list_command(kind: str, cost: bool, as_json: bool) -> None:
    """Names that recipes can use."""
    from kdcompress.pipelines import catalogue

    if cost and kind != "methods":
        raise UsageError("Only methods have a cost.", where="--cost", got=f"list {kind}")
    entries = catalogue.method_costs() if cost else getattr(catalogue, kind)()
    if as_json:
        return _print_json(entries)
    _print_table(entries, {key: key for key in entries[0]})


@main.command()
@click.argument("recipe", default="fashion-mnist-demo")
@click.option("-o", "--output", type=PathArgument, help="[default: RECIPE.yaml]")
def init(recipe: str, output: Path | None) -> None:
    """Copy a starter RECIPE into this folder."""
    source = find_recipe(recipe)
    output = output or Path(source.name)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise UsageError("The file exists already.", where=output, hint="choose another with --output") from error
    except OSError as error:
        raise UsageError("The recipe cannot be written.", where=output, got=error.strerror) from error
    echo(output)


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """What works on this machine, and what to install."""
    from kdcompress.pipelines import catalogue

    facts = catalogue.doctor()
    if as_json:
        return _print_json(facts)
    for line in _lines(facts):
        echo(line)


def _print_table(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    from rich.table import Table

    from kdcompress.console import out

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, title in columns.items():
        table.add_column(title or key, overflow="fold")
    for row in rows:
        cells = [row.get(key) for key in columns]
        table.add_row(*(f"{c:.3f}" if isinstance(c, float) else "-" if c is None else str(c) for c in cells))
    out.print(table)


if __name__ == "__main__":
    main()
