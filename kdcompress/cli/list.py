from __future__ import annotations

import click

from kdcompress.cli.options import json_option
from kdcompress.errors import UsageError


@click.command("list")
@click.argument("kind", type=click.Choice(["models", "methods", "tasks", "data", "targets", "recipes"]), metavar="KIND")
@click.option("--cost", is_flag=True, help="For methods: show passes and arithmetic of an iteration, not the options.")
@json_option
def command(kind: str, cost: bool, as_json: bool) -> None:
    """List the names that a recipe can use.

    KIND is models, methods, tasks, data, targets or recipes.
    """
    from kdcompress.pipelines import catalogue
    from kdcompress.report.show import print_json, print_table

    if cost and kind != "methods":
        raise UsageError("Only methods have a cost.", where="--cost", got=f"list {kind}")
    entries = catalogue.method_costs() if cost else getattr(catalogue, kind)()
    if as_json:
        return print_json(entries)
    print_table(entries, {key: key for key in entries[0]})
