"""Imports go one way, and heavy libraries are imported where they are used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A room may import those in its own row or an earlier one.
ROWS = [
    {"child", "errors", "optional", "console", "own_code", "strict_yaml", "registry"},
    {"boxes", "segments", "class_maps", "drawing", "picking"},
    {"untrusted", "recipe", "artifact", "ours", "runner", "layers", "distributed", "task", "matching", "intervals"},
    {
        "data",
        "average_precision",
        "resampled_precision",
        "detected",
        "segmented",
        "models",
        "methods",
        "tasks",
        "training",
        "parity",
        "bench",
        "report",
    },
    {"export"},
    {"pipelines"},
    {"cli", "__main__", "__init__", "demo"},
]
LEVEL = {room: level for level, rooms in enumerate(ROWS) for room in rooms}
NOT_OF = {
    "tasks": {"training", "methods", "models", "parity", "bench", "report"},
    "methods": {"training"},
    "models": {"training", "methods"},
    "data": {"training", "models", "methods"},
}
LINKS = ROOT / "kdcompress/export", ROOT / "kdcompress/pipelines"  # to the folders at the top
FILES = [
    path
    for folder in ("kdcompress", "export", "pipelines")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any(path.is_relative_to(link) for link in LINKS)
]


def room_of(path):
    first, *rest = path.relative_to(ROOT).parts
    return first if first != "kdcompress" else rest[0].removesuffix(".py")


def imported(tree):
    """(module, whether at the top level of the file) of each import of kdcompress."""
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module] if node.module != "kdcompress" else [f"kdcompress.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in inside


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = room_of(path)
    for name, _ in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "kdcompress" or len(parts) == 1 or parts[1].startswith("__"):
            continue
        assert LEVEL[parts[1]] <= LEVEL[room], f"{room} imports {name}"
        assert parts[1] not in NOT_OF.get(room, ()), f"{room} imports {name}"


def module_of(path):
    """The name that a file is imported by; a package's is that of its ``__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "kdcompress" else ("kdcompress", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def needed(tree, modules):
    """Those of ``modules`` that are imported: inside functions and for types alone, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def circles(needs):
    """The groups of modules, sorted, that reach each other through what they need: {module: modules needed}."""
    reached = {}
    for module, direct in needs.items():
        found, new = set(), set(direct)
        while new:
            found |= new
            new = {other for each in new for other in needs[each]} - found
        reached[module] = found
    groups = {frozenset(o for o in reached[m] if m in reached[o]) for m in needs if m in reached[m]}
    return sorted(sorted(group) for group in groups)


def test_circles_by_hand():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"d"}}) == [["a", "b", "c"], ["d"]]
    tree = ast.parse("import x.a\ndef f():\n    from x import b, name\n    from x.c import d\n")
    assert list(needed(tree, {"x", "x.a", "x.b", "x.c"})) == ["x.a", "x.b", "x", "x.c"]


def test_no_modules_import_each_other_in_a_circle():
    """What two need of each other belongs in a third. The face, kdcompress, has the version for all of them."""
    modules = {module_of(path): path for path in FILES if module_of(path) != "kdcompress"}
    needs = {name: set(needed(ast.parse(path.read_text()), modules)) & set(modules) for name, path in modules.items()}
    assert circles(needs) == []


def test_the_command_line_imports_inside_command_bodies():
    light = {"click", "kdcompress.__version__", "kdcompress.errors", "kdcompress.cli.options", "kdcompress.cli.main"}
    for path in (ROOT / "kdcompress/cli").glob("*.py"):
        at_top = {name for name, top in imported(ast.parse(path.read_text())) if top}
        assert {name for name in at_top if name.partition(".")[0] not in sys.stdlib_module_names} <= light, path


@pytest.mark.parametrize("module", ["kdcompress.recipe", "kdcompress.export.formats", "kdcompress.report.write"])
def test_module_is_light(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'onnx', 'onnxruntime', 'timm'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_networks_are_built_without_the_libraries_of_others():
    """torchvision and timm take seconds to import: a network of the zoo needs neither."""
    code = (
        "import sys; from kdcompress.models.build import build; build('resnet8', 10, 3); "
        "sys.exit(bool({'torchvision', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_project_names_no_path_of_a_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".json", ""}:
            assert str(ROOT) + "/" not in path.read_text(), name


def test_text_reaches_a_terminal_through_one_place():
    """Where what steers it is shown as escapes: the console, a line or JSON in ASCII on stdout, and the last word."""
    counted = {"kdcompress/report/show.py": 2, "kdcompress/cli/main.py": 1}
    for path in FILES:
        text = path.read_text()
        assert text.count("click.echo(") == counted.get(str(path.relative_to(ROOT)), 0), path
        if room_of(path) == "cli":
            assert not re.search(r"(?<![.\w])print\(", text), path
        if path.name != "console.py":
            assert "Console(" not in text, path


def test_no_file_outside_tasks_asks_which_task_it_is():
    """A task's name stands in its own file alone, but where it is a default; what depends on it is asked of it."""
    names = {path.stem.replace("_", "-") for path in (ROOT / "kdcompress/tasks").glob("[a-z]*.py")}
    asked = []
    for path in FILES:
        if path.is_relative_to(ROOT / "kdcompress/tasks"):
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            tests = [node.test] if isinstance(node, (ast.If, ast.IfExp, ast.While)) else []
            tests += [node] if isinstance(node, ast.Compare) else []
            tests += node.cases if isinstance(node, ast.Match) else []
            for inner in (inner for test in tests for inner in ast.walk(test)):
                if isinstance(inner, ast.Constant) and inner.value in names:
                    asked.append(f"{path.relative_to(ROOT)}:{inner.lineno}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdcompress.tasks."):
                asked.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not asked
