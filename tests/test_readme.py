"""The README says what is true: its recipe is valid, its commands exist, its names are registered."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kdcompress.cli.main import main
from kdcompress.export import formats
from kdcompress.methods import methods
from kdcompress.recipe import validate_recipe

README = (Path(__file__).parents[1] / "README.md").read_text()
MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text()


def test_its_recipe_is_valid():
    recipe = validate_recipe(yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.S)[1]))
    assert all(name in methods for name in recipe.method)
    assert all(name in formats.targets() for name in recipe.export.targets)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"\bkdcompress (\w+)", README)) & set(main.commands)))
def test_its_commands_have_the_options_it_names(command):
    shown = CliRunner().invoke(main, [command, "--help"]).stdout
    for line in re.findall(rf"kdcompress {command}\b([^\n|#]*)", README):
        assert all(option in shown for option in re.findall(r"--[a-z-]+|(?<= )-[a-z]\b", line))


def test_its_make_targets_exist():
    assert all(f"\n{name}:" in MAKEFILE for name in re.findall(r"make (\w+) ", README) if name != "are")
