"""The site is built as `make docs` builds it, without a warning, and shows what the registries hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdcompress.cli.main import main
from kdcompress.data.source import sources
from kdcompress.export import formats
from kdcompress.methods import methods
from kdcompress.models.names import names
from kdcompress.pipelines.catalogue import shipped_recipes
from kdcompress.recipe import Recipe
from kdcompress.tasks import tasks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Strict: a link or an anchor that leads nowhere, or a page that no menu names, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("warning", done.stdout + done.stderr, re.IGNORECASE), done.stderr
    return folder


def page(site, name):
    return (site / f"{name}.html").read_text()


def test_each_method_has_a_section(site):
    text = page(site, "methods")
    assert not [name for name in methods if f'id="{name}"' not in text]
    fields = {key for name in methods for key in methods[name].Options.model_fields}
    assert not [key for key in fields if f"<code>{key}</code>" not in text]


def test_each_name_is_on_its_page(site):
    models = [name for members in names().values() for name in members]
    for shown, text in {
        "targets": formats.targets(),
        "model-names": models,
        "names": [*sources, *tasks.entries(), *shipped_recipes()],
        "recipe": Recipe.model_fields,
    }.items():
        found = page(site, shown)
        assert not [name for name in text if f"<code>{name}</code>" not in found], shown


def test_each_command_has_a_section_with_its_options(site):
    text = page(site, "commands")
    for name in main.commands:
        assert f">{name}<" in text or f"kdcompress {name}" in text
        for parameter in main.commands[name].params:
            assert all(option in text for option in parameter.opts if option.startswith("--")), (name, parameter.opts)


def test_the_classes_for_programs_are_shown(site):
    text = page(site, "python")
    assert "Distillation" in text and "deployable" in text and "Member" in text


def test_pages_work_without_a_network(site):
    """No page has a script, a style, a font or a picture from elsewhere."""
    tag = r"<(?:script|img|iframe|link rel=\"(?:stylesheet|preconnect|icon)\")"
    loads = re.compile(tag + r"""[^>]*(?:src|href)="?(?:https?:)?//""")
    assert not [path.name for path in site.rglob("*.html") if loads.search(path.read_text())]
    assert not [path.name for path in site.rglob("*.css") if re.search(r"url\(['\"]?https?:", path.read_text())]


def test_no_page_has_a_path_of_the_machine_that_built_it(site):
    assert not [path.name for path in site.rglob("*.html") if str(ROOT) in path.read_text()]
