from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcompress.cli.options import (
    AS_PATH,
    Number,
    as_typed,
    json_option,
    no_code_option,
    output_option,
    recipe_arguments,
)
from kdcompress.errors import UsageError

KINDS = click.Choice(["images", "facts", "answers", "imported"])


@click.group("cache")
def command() -> None:
    """List, share and remove kept images and teachers' answers.

    Decoded images and what teachers answer to them are kept on the disk, so that they are made once.

    \b
    kdcompress cache list
    kdcompress cache export mine.yaml -o answers.npz
    kdcompress cache import answers.npz
    kdcompress cache prune --older-than 30
    """


def kind_option() -> Any:
    return click.option("--kind", "kinds", type=KINDS, multiple=True, help="Only these.  [default: all]")


@command.command("list")
@kind_option()
@json_option
def list_command(kinds: tuple[str, ...], as_json: bool) -> None:
    """Show what is kept: how large it is, what it is of, and when it was last used.

    images are decoded pixels, facts are hashes of files, answers are those of teachers, and imported are answers that
    somebody else exported.
    """
    from kdcompress.console import say
    from kdcompress.pipelines import caches
    from kdcompress.report.show import print_json, print_table

    found = caches.entries(kinds or caches.KINDS)
    if as_json:
        return print_json([entry.to_json() for entry in found])
    if found:
        rows = [entry.row() for entry in reversed(found)]
        print_table(rows, {key: "" for key in rows[0]})
    say(f"{sum(entry.bytes for entry in found) / 1e6:,.1f} MB in all")


@command.command("export")
@recipe_arguments
@output_option("File to write.  [default: RECIPE'S NAME-answers.npz]")
@click.option("--run", "folder", type=AS_PATH, help="Run folder that has the teacher.  [default: runs/RECIPE'S NAME]")
@no_code_option
@json_option
def export_command(
    recipe: str, overrides: tuple[str, ...], output: Path | None, folder: Path | None, no_code: bool, as_json: bool
) -> None:
    """Write the answers of RECIPE's teacher to all of its training images into one file.

    The file has the answers to every view of every image. What is not kept yet is computed, and the teacher is trained
    first if it is not trained. Others name the file in their recipe, and need no teacher:

    \b
    teacher: {answers: mine-answers.npz}

    The file holds hashes of the images and no images. Use train.teacher_cache_top=10 to keep the 10 largest
    probabilities of each answer.
    """
    from kdcompress.console import percentage
    from kdcompress.pipelines.catalogue import find_recipe
    from kdcompress.pipelines.share import Share
    from kdcompress.pipelines.user_code import refuse_code
    from kdcompress.recipe import load_recipe
    from kdcompress.report.show import echo, print_json

    loaded = load_recipe(find_recipe(recipe), overrides)
    if no_code:
        refuse_code(loaded)
    output = output or Path(f"{loaded.name}-answers.npz")
    share = Share(loaded, folder or Path("runs") / loaded.name, output, as_typed())
    share.check()
    with percentage() as progress:
        found = share.run(progress)
    if as_json:
        return print_json(found)
    echo(f"{found['file']}: {found['images']:,} images x {found['views']:,} views, {found['bytes'] / 1e6:,.1f} MB")


@command.command("import")
@click.argument("file", type=AS_PATH)
@click.option("--name", help="What recipes call it.  [default: the file's name]")
@json_option
def import_command(file: Path, name: str | None, as_json: bool) -> None:
    """Check a FILE of answers and keep a copy, which recipes name.

    \b
    teacher: {answers: NAME}
    """
    from kdcompress.pipelines import caches
    from kdcompress.report.show import echo, print_json

    name, given = caches.import_answers(file, name)
    if as_json:
        return print_json({"name": name, "what": caches.what(given), "augment": given.augment})
    echo(f"{name}: {caches.what(given)}")


@command.command("prune")
@kind_option()
@click.option("--older-than", type=Number(0), metavar="DAYS", help="What was not used for so many days.")
@click.option("--keep", type=Number(0), metavar="GIB", help="The longest unused, until so much is left.")
@click.option("--name", help="What has this name, or begins so.")
@click.option("--all", "everything", is_flag=True, help="All that is kept.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@json_option
def prune_command(
    kinds: tuple[str, ...],
    older_than: float | None,
    keep: float | None,
    name: str | None,
    everything: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove kept images and answers.

    They are made again when they are needed, except for imported answers. Nothing else in the folders is touched.
    """
    import sys

    from kdcompress.console import say
    from kdcompress.pipelines import caches
    from kdcompress.report.show import print_json, print_table

    going = caches.chosen(kinds, name, older_than, None if keep is None else keep * 2**30, everything)
    size = sum(entry.bytes for entry in going)
    if going and not as_json:
        rows = [entry.row() for entry in going]
        print_table(rows, {key: "" for key in rows[0]})
    if going and not dry_run and not yes:
        if not sys.stdin.isatty():
            raise UsageError("Nothing was removed: nobody can be asked.", hint="say --yes, or --dry-run to look first")
        if not click.confirm(f"Remove these, {size / 1e6:,.1f} MB?", err=True):
            raise click.Abort
    freed = 0 if dry_run else caches.remove(going)
    if as_json:
        return print_json({"removed": [] if dry_run else [e.to_json() for e in going], "bytes": freed})
    say(f"{'would be removed' if dry_run else 'removed'}: {len(going)}, {size / 1e6:,.1f} MB")
