"""What several commands take, said once. What else an option needs, such as its help, is said where it is used."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Any], Any]


class Given(click.Path):
    """A path that is not empty, as a shell's variable is that is not set: it would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value).strip():
            self.fail("The path is empty; . is the current folder.", param, ctx)
        return super().convert(value, param, ctx)


AS_PATH = Given(path_type=Path)


class Number(click.FloatRange):
    """A finite one: nan is in every range, and inf in those without an end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


def data_alone(ctx: click.Context, option: click.Parameter, value: bool) -> bool:
    """With --json, stdout holds the document alone, also where a user's own module prints."""
    if value:
        from kdcompress import console

        ctx.with_resource(console.data_alone())
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=data_alone, help="Print one JSON document to stdout."
)
no_code_option = click.option("--no-code", is_flag=True, help="Refuse names of Python code: package.module:NAME.")


def recipe_arguments(command: Any) -> Any:
    return click.argument("recipe")(click.argument("overrides", nargs=-1)(command))


def output_option(help: str) -> Decorator:
    return click.option("-o", "--output", type=AS_PATH, help=help)


def dry_run_option(help: str = "Check everything, print the plan, write nothing.") -> Decorator:
    return click.option("--dry-run", is_flag=True, help=help)


def data_option(**more: Any) -> Decorator:
    return click.option("--data", "source", **more)


def root_option(**more: Any) -> Decorator:
    return click.option("--root", type=AS_PATH, help="Where the data set's files are.", **more)


def size_option(**more: Any) -> Decorator:
    return click.option("--size", type=int, **more)


def minutes_option(help: str) -> Decorator:
    return click.option("--minutes", type=Number(0.5, 100_000), help=help)


def target_option(name: str, **more: Any) -> Decorator:
    return click.option("--target", name, multiple=True, **more)


def threads_option(**more: Any) -> Decorator:
    return click.option("--threads", type=click.IntRange(1), **more)


def effort_option(default: str) -> Decorator:
    return click.option("--effort", type=click.Choice(["rapid", "quick", "normal"]), default=default)


def into(group: str) -> dict[str, Any]:
    """For an option that the command gets as an entry of the dictionary ``group``, under the option's name. What was
    not given and has no default is not in it."""

    def keep(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        found = ctx.params.setdefault(group, {})
        if value not in (None, ()):
            found[option.name] = list(value) if isinstance(value, tuple) else value

    return {"expose_value": False, "callback": keep}


def comma_separated(ctx: click.Context, option: click.Parameter, value: str | None) -> list[str]:
    return [part.strip() for part in value.split(",")] if value else []


def as_typed() -> str:
    """The command as it was given to the shell, for the records."""
    return shlex.join(["kdcompress", *sys.argv[1:]])
