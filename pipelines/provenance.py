"""Where a document comes from, and the recipe in a run's folder."""

from __future__ import annotations

import json
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

import kdcompress
from kdcompress.artifact import content_hash
from kdcompress.bench.machine import machine, packages
from kdcompress.errors import KDCompressError
from kdcompress.ours import Ours
from kdcompress.recipe import Recipe, load_recipe

RECIPE = "recipe.yaml"
PRIVATE = "private"


def provenance(recipe: Recipe, command: str) -> dict[str, Any]:
    """What every document says of where it comes from: of private images not where they are."""
    if recipe.data.public is not None:
        recipe = public(recipe)
        words = [f"data.root={PRIVATE}" if w.startswith("data.root=") else w for w in shlex.split(command)]
        command = shlex.join(words)
    effective = recipe.model_dump(mode="json")
    return {
        "kdcompress": kdcompress.__version__,
        "name": recipe.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "recipe": effective,
        "recipe_yaml": recipe_yaml(recipe),
        "recipe_hash": content_hash(effective),
        "machine": machine(),
        "packages": packages(),
    }


def public(recipe: Recipe) -> Recipe:
    """What others may read of it: not where private images are."""
    if recipe.data.public is None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": None})})


def recipe_yaml(recipe: Recipe) -> str:
    """The effective recipe, with what stands at its default left out."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json(exclude_defaults=True)), sort_keys=False)


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Raises UsageError where another file of that name is there, which kdcompress did not write."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_recipe(folder / RECIPE, recipe):
        Ours(folder).write(RECIPE, recipe_yaml(recipe))


def is_recipe(path: Path, recipe: Recipe) -> bool:
    """Whether the file is this recipe already, however it is written."""
    try:
        return recipe_yaml(load_recipe(path)) == recipe_yaml(recipe)
    except KDCompressError:
        return False
