"""python -m kdcompress.demo: Fashion-MNIST is fetched, and the recipe fashion-mnist-demo is run, on any system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kdcompress.cli import run
from kdcompress.cli.main import Told

RECIPE = "fashion-mnist-demo"
PROGRAM = "python -m kdcompress.demo"
NOT_HERE = ("recipe", "minutes", "targets")  # what `run` takes besides, for folders of photos
HELP = f"""Run the whole job once, from data to report, on a small data set.

It does what `kdcompress run {RECIPE}` does. A teacher and a student learn Fashion-MNIST, small grey pictures of
clothes. The student is exported, and each file is scored and timed on this machine.

It takes about 8 minutes on two slow processor cores, once the 31 MB of Fashion-MNIST are downloaded.

It writes the data set into datasets (or $KDCOMPRESS_DATA) and all else into runs/{RECIPE}. Open report.html there.
Stopped, the same command goes on.

OVERRIDES change the recipe, as key.sub=value. They and the options are passed on to `run`.

\b
{PROGRAM}
{PROGRAM} --dry-run                 only say what it would do
{PROGRAM} train.epochs=1 -o quick   train shorter, in quick
"""


def fetched(overrides: tuple[str, ...], dry_run: bool) -> bool:
    """Whether the images are here; they are downloaded unless it is a ``dry_run``. Raises UsageError for overrides that
    are not as they should be, before that."""
    from kdcompress.console import say
    from kdcompress.data.fetch import fetch
    from kdcompress.data.source import default_root, find
    from kdcompress.pipelines.catalogue import find_recipe
    from kdcompress.recipe import load_recipe

    data = load_recipe(find_recipe(RECIPE), overrides).data
    if find(data).ready:
        return True
    root = data.root or default_root()
    if dry_run:
        say(f"{data.source} is not here: without --dry-run it is downloaded into {root}, and the rest is checked then.")
        return False
    say(f"{data.source} is fetched into {root}")
    fetch(data.source, Path(root))
    return True


def demo(overrides: tuple[str, ...], output: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """What the command line calls; ``options``: those of `run`, and with ``overrides`` the same."""
    if fetched(overrides, dry_run):
        options |= dict.fromkeys(NOT_HERE, None) | {"recipe": RECIPE, "targets": ()}
        assert run.command.callback is not None
        run.command.callback(overrides=overrides, output=output, dry_run=dry_run, as_json=as_json, **options)
        return
    from kdcompress.pipelines.catalogue import find_recipe
    from kdcompress.pipelines.compress import Compression
    from kdcompress.recipe import load_recipe
    from kdcompress.report.show import print_steps

    compression = Compression(load_recipe(find_recipe(RECIPE), overrides), output or Path("runs") / RECIPE)
    print_steps([(name, "to do") for name in compression.names()], as_json)


def main(arguments: list[str]) -> None:
    """``arguments``: overrides, and options of `kdcompress run`. Ends the process with its exit code."""
    parameters = [each for each in run.command.params if each.name not in NOT_HERE]
    settings = {"help_option_names": ["-h", "--help"], "show_default": True}
    Told(PROGRAM, callback=demo, params=parameters, help=HELP, context_settings=settings).main(arguments, PROGRAM)


if __name__ == "__main__":
    main(sys.argv[1:])
