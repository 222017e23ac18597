from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """The recipe's JSON schema, for editors.

    It is one JSON document on stdout. An editor that knows YAML schemas completes and checks a
    recipe whose first line names the file:

    \b
    kdcompress schema > kdcompress.schema.json
    # yaml-language-server: $schema=kdcompress.schema.json
    """
    from kdcompress.pipelines.catalogue import recipe_schema
    from kdcompress.report.show import print_json

    print_json(recipe_schema())
