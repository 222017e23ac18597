from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON schema of recipes, for editors.

    Save it as a file, and name that file in the first line of a recipe. An editor that knows YAML schemas then
    completes and checks the recipe:

    \b
    kdcompress schema > kdcompress.schema.json
    # yaml-language-server: $schema=kdcompress.schema.json
    """
    from kdcompress.pipelines.catalogue import recipe_schema
    from kdcompress.report.show import print_json

    print_json(recipe_schema())
