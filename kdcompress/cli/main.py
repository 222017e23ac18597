"""Where the command line begins and ends: it finds the commands, and gives every failure its words and exit code.

0: done. 1: failed, or a limit is not met. 2: what was asked for cannot be used as it is. 3: a package or a device is
missing. 130: interrupted. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import click

from kdcompress import __version__
from kdcompress.errors import KDCompressError, cut, shown

SHARED = ("__main__", "main", "options")  # all other files of this folder are commands
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
CLOSED_TO_US = "A file or folder cannot be written or read."
SPINS = "1000"  # of PyTorch's waiting threads, before they sleep: with libgomp's 300,000 they slow all other work
ELSEWHERE = "choose another place, which many commands take with -o"


def tell(text: str) -> None:
    """Prints what went wrong; all else is printed by kdcompress.console and kdcompress.report.show."""
    click.echo(shown(text), err=True)


class Commands(UserDict[str, Any]):
    """Name -> command: the ``command`` of the file of that name, which is imported when it is first looked up."""

    def __init__(self) -> None:
        found = (module.name for module in iter_modules([str(Path(__file__).parent)]))
        super().__init__({name: None for name in found if name not in SHARED})

    def __getitem__(self, name: str) -> click.Command:
        if self.data[name] is None:
            self.data[name] = load(name)
        return self.data[name]


def load(name: str) -> click.Command:
    """The command, or one of its name that says in its help why the file cannot be imported, and fails with that."""
    try:
        return import_module(f"kdcompress.cli.{name}").command
    except Exception as error:
        cause = error

    def fail(**_: Any) -> None:
        raise cause

    why = f"It cannot be loaded: {type(cause).__name__}: {cause}"
    takes_all = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=fail, help=why, short_help=why, context_settings=takes_all)


class Told(click.Command):
    """Errors meant for users are printed without a traceback and end with their own exit code. What steers a terminal
    is shown as escapes, also in a traceback and in a warning of a library's."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        import faulthandler
        import traceback
        import warnings

        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        if sys.__stderr__ is not None and not faulthandler.is_enabled():  # a library's crash is not silent
            faulthandler.enable(sys.__stderr__)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal may not have every character
        warnings.formatwarning = lambda message, category, *_, **__: shown(f"{category.__name__}: {message}\n")
        sys.excepthook = lambda *error: tell("".join(traceback.format_exception(*error)).rstrip())
        return super().main(*arguments, **options)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with escaped():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with escaped():
                return super().invoke(ctx)
        except KDCompressError as error:
            tell(f"Error: {error}")
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno not in (*FULL, *CLOSED):
                raise
            closed = error.errno in CLOSED
            tell(f"Error: {CLOSED_TO_US if closed else 'A file could not be written: there is no room.'}")
            tell(f"  where: {cut(str(error.filename or 'the output'))}\n  got: {error.strerror}")
            tell(f"  next: {ELSEWHERE if closed else 'free some space, or choose another place with -o'}")
            ctx.exit(1)
        except KeyboardInterrupt:
            tell("Interrupted. What is finished is kept; the same command goes on from there.")
            ctx.exit(130)


@contextmanager
def escaped() -> Iterator[None]:
    """What was typed is cut and shown as escapes in click's own messages."""
    try:
        yield
    except click.ClickException as error:
        vars(error)["message"] = shown(cut(error.message))
        raise


class Cli(Told, click.Group):
    pass


@click.group(
    cls=Cli, commands=Commands(), context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Distil a vision model, export it, and measure every file that ships.

    \b
    kdcompress run fashion-mnist-demo      the whole job, from data to report
    kdcompress run RECIPE --dry-run        what it would do
    kdcompress doctor                      what works on this machine
    """
