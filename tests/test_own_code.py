"""Code that a recipe names comes from its folder, the current one or an installed package, and is told before it runs;
what could load any code by name is refused before anything is imported."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from kdcompress import own_code
from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.own_code import imported
from kdcompress.recipe import code_of, load_recipe, validate_recipe

RECIPE = "name: x\ndata: {source: image-folder, root: nowhere}\nstudent: {model: '%s'}\n"
NETS = """
import functools, os, pathlib, subprocess, torch, torchvision
pathlib.Path(__file__).with_suffix(".ran").touch()
from torch.hub import load
from os import system
from kdcompress.methods.kd import KD

def plain(classes, channels, width=4):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(classes))

@torch.no_grad()
def wrapped(classes, channels):
    return plain(classes, channels)

@functools.lru_cache
def kept(classes, channels):
    return plain(classes, channels)

class Net(torch.nn.Linear):
    @classmethod
    def made(cls): ...

class Maker:
    def __call__(self, classes, channels): ...

bound, made, half = Maker(), Net.made, functools.partial(plain, width=8)
hidden, run, again = functools.partial(load, "a/b"), subprocess.run, functools.partial(functools.partial(exec), "1")
"""


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The current folder and a recipe's, nothing of which is importable afterwards."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(own_code, "_folders", [])
    monkeypatch.setattr(own_code, "_told", set())
    before = set(sys.modules)
    yield here, there
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")) or name.startswith("kd_nets"):
            del sys.modules[name]


REFUSED = """
torch.hub:load torch:load torch.jit:load torch.package:PackageImporter torch.utils._config_module:eval
importlib:import_module importlib.util:module_from_spec runpy:run_path runpy:run_module os:system os:popen
posix:system subprocess:run subprocess:getoutput builtins:exec builtins:eval builtins:__import__ builtins:open
pickle:loads _pickle:loads marshal:loads shelve:open ctypes:CDLL _ctypes:dlopen code:interact pty:spawn
timeit:timeit functools:partial operator:call operator:attrgetter webbrowser:open zipimport:zipimporter
multiprocessing:Process concurrent.futures:Future pdb:run trace:Trace site:addsitedir pkgutil:resolve_name
test.support:run_code timm:create_model torchvision.models:get_model huggingface_hub:snapshot_download
numpy:load yaml:unsafe_load kdcompress.own_code:imported __main__:x setuptools:setup pip:main
"""


@pytest.mark.parametrize("name", REFUSED.split())
def test_what_could_load_any_code_is_no_model(name, folders):
    before = set(sys.modules)
    with pytest.raises(UsageError):
        imported("model", name)
    assert set(sys.modules) == before, "something was imported"


def test_a_refused_library_is_looked_for_without_a_trace():
    script = """if 1:
        from kdcompress.errors import UsageError
        from kdcompress.own_code import located
        try:
            located("model", "pip:main")
        except UsageError:
            import setuptools"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "a:",
        ":a",
        "a:b:c",
        "a.b:c.d",
        "../a:b",
        "/tmp/a:b",
        "timm/hf-hub:a",
        "a b:c",
        "a..b:c",
        "a:b()",
        ".a:b",
    ],
)
def test_what_is_no_name_is_said_so(name, folders):
    with pytest.raises(UsageError, match="package.module:NAME"):
        imported("model", name)


@pytest.mark.parametrize("name", ["load", "system", "hidden", "run", "again"])
def test_what_is_taken_over_from_there_is_none_either(name, folders):
    (folders[0] / "kd_nets.py").write_text(NETS)
    with pytest.raises(UsageError, match="Recipes may not name code of"):
        imported("model", f"kd_nets:{name}")


@pytest.mark.parametrize("name", ["plain", "wrapped", "kept", "Net", "made", "bound", "half", "KD"])
def test_ones_own_is_taken_however_it_is_made(name, folders):
    (folders[0] / "kd_nets.py").write_text(NETS)
    assert callable(imported("model", f"kd_nets:{name}"))


def test_it_comes_from_the_recipes_folder_and_is_told_before_it_runs(folders, capsys):
    here, there = folders
    recipe = there / "r.yaml"
    recipe.write_text(RECIPE % "kd_nets_far:plain")
    (there / "kd_nets_far.py").write_text("raise RuntimeError('it ran')")
    with pytest.raises(UsageError, match="kd_nets_far"):
        imported("model", "kd_nets_far:plain")  # no recipe of that folder is read yet
    load_recipe(recipe)
    with pytest.raises(UsageError, match="it ran"):
        imported("model", "kd_nets_far:plain")
    assert f"model: kd_nets_far:plain, code of {there / 'kd_nets_far.py'}\n" == capsys.readouterr().err
    (there / "kd_nets_far.py").write_text("def plain(): return 5")
    (here / "kd_nets_far.py").write_text("def plain(): return 6")  # the current folder comes first
    assert imported("model", "kd_nets_far:plain")() == 6


def test_a_package_is_located_without_running_it(folders):
    package = folders[0] / "kd_nets_package"
    (package / "inner").mkdir(parents=True)
    for file in ("__init__.py", "inner/__init__.py", "inner/nets.py"):
        (package / file).write_text("raise RuntimeError('it ran')")
    assert own_code.located("model", "kd_nets_package.inner.nets:x") == package / "inner/nets.py"
    with pytest.raises(UsageError, match="No module named 'kd_nets_package.none'"):
        own_code.located("model", "kd_nets_package.none.nets:x")


def test_no_code_refuses_all_of_it_and_runs_none(folders):
    here, _ = folders
    (here / "kd_nets.py").write_text(NETS)
    (here / "r.yaml").write_text(RECIPE % "kd_nets:plain")
    (here / "plain.yaml").write_text(RECIPE % "resnet8")
    for asked in (
        ["run", "r.yaml", "--dry-run"],
        ["run", "plain.yaml", "method={kd_nets:KD: {}}"],
        ["run", "plain.yaml", "compare.methods.own=[kd_nets:KD]"],
        ["compare", "r.yaml", "--dry-run"],
        ["plan", "r.yaml", "--dry-run"],
        ["plan", "plain.yaml", "--candidates", "kd_nets:plain"],
        ["export", "w.safetensors", "--model", "kd_nets:plain", "--data", "image-folder", "--root", "x"],
    ):
        done = CliRunner().invoke(main, [*asked, "--no-code"])
        assert done.exit_code == 2 and "The recipe names code of its own." in done.output, done.output
        assert "kd_nets:" in done.output
    assert not (here / "kd_nets.ran").exists()


def test_a_dry_run_refuses_with_the_other_problems_and_imports_nothing(folders):
    (folders[0] / "r.yaml").write_text(RECIPE % "torch.hub:load")
    done = CliRunner().invoke(main, ["run", "r.yaml", "--dry-run", "export.targets=x86-vnnii"])
    assert done.exit_code == 2 and "Recipes may not name code of torch" in done.output
    assert "no target named 'x86-vnnii'" in done.output and "data.root is not a folder" in done.output


def test_every_place_of_a_recipe_that_names_code_is_known():
    train, student = {"train": {}}, {"student": {"model": "m.c:f"}, "macs": 1, "parameters": 1}
    recipe = validate_recipe(
        {
            "name": "x",
            "data": {"source": "mnist"},
            "teacher": {"model": "m.a:f", **train},
            "co_teachers": [{"model": "m.b:f", **train}],
            "assistants": [{"model": "m.d:f", "method": ["kd", "m.e:M"]}],
            "student": {"model": "m.g:f"},
            "peers": [{"model": "m.h:f"}],
            "method": {"m.i:M": {}},
            "budgets": {"candidates": [student]},
            "compare": {"methods": {"own": "m.j:M"}},
        }
    )
    assert code_of(recipe) == [
        f"m.{letter}" for letter in ("a:f", "b:f", "c:f", "d:f", "e:M", "g:f", "h:f", "i:M", "j:M")
    ]


def test_a_module_of_ones_own_may_have_a_librarys_name(folders):
    here, _ = folders
    (here / "cupy.py").write_text("from torch import nn\ndef net(classes, channels): return nn.Identity()\n")
    assert imported("model", "cupy:net").__name__ == "net"  # no such library is installed
    assert sys.modules["cupy"].__file__ == str(here / "cupy.py")
    (here / "torch.py").write_text("def net(classes, channels): ...")
    with pytest.raises(UsageError, match="Recipes may not name code of torch"):  # this one is, and it is found first
        imported("model", "torch:net")
