"""YAML: no key twice, bounded in what it costs, UTF-8 in every locale, one error for whatever a file holds."""

import os
import subprocess
import sys

import pytest

from kdcompress.errors import UsageError
from kdcompress.export.formats import load_target
from kdcompress.recipe import load_recipe
from kdcompress.strict_yaml import DEEPEST, LARGEST, parse

RECIPE = "name: x\ndata: {source: mnist}\nstudent: {model: resnet8}\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "a stands twice, in lines 1 and 3"),
        ("t:\n  epochs: 1\n  lr: 1\n  epochs: 2\n", "epochs stands twice, in lines 2 and 4"),
        ("- {a: 1,\n   'a': 2}\n", "a stands twice, in lines 1 and 2"),
        ("1: a\n0x1: b\n", "0x1 stands twice, in lines 1 and 2"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  b: 2\n", "b stands twice, in lines 4 and 5"),
    ],
)
def test_a_key_twice_is_refused_with_both_lines(text, lines):
    with pytest.raises(ValueError, match=lines):
        parse(text)


def test_a_key_twice_in_a_recipe_a_base_a_target_and_an_override(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE + "train: {epochs: 1}\ntrain: {epochs: 99}\n")
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nbase: r\n")
    for each in (path, own):
        with pytest.raises(UsageError, match=r"r\.yaml(.|\n)*train stands twice, in lines 4 and 5"):
            load_recipe(each)
    with pytest.raises(UsageError, match="format stands twice, in lines 1 and 2"):
        path.write_text("format: onnx\nformat: ort\n")
        load_target(path)
    path.write_text(RECIPE)
    with pytest.raises(UsageError, match="epochs stands twice"):
        load_recipe(path, ("train={epochs: 1, epochs: 2}",))
    assert load_recipe(path, ("train.epochs=1", "train.epochs=2")).train.epochs == 2


def test_what_yaml_merges_is_not_twice():
    assert parse("x: &x {a: 1, b: 1}\ny: {<<: *x, b: 2}\n")["y"] == {"a": 1, "b": 2}
    assert parse("<<: {a: 1}\na: 2\n") == {"a": 2}


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))


@pytest.mark.parametrize(
    "text",
    [BOMB, CHAIN, "a: &a [*a]", "&a {a: *a}", *(sign * 100_000 for sign in ("[", "{a: ", "- ", "? ", "[{a: ")), "1,"]
    + ["[" + "1, " * 100_000 + "]", "#" * (LARGEST + 1), "a: 9" + "9" * 5000, "a: 2024-13-45", "a: !!bool x", "a: 0x_"]
    + ["!!python/object/apply:os.getcwd []", "\0", "? [1]\n: 2", "--- a\n--- b", "!!binary x", "<<: 1", "a: !!int x"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_too_much_or_no_yaml_is_one_line(text):
    if text == "1,":
        assert parse(text) == "1,"
        return
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_a_recipe_may_be_is_taken():
    deep = "[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1)
    assert parse(f"a: 1\nb: {'x' * 900_000}\n")["a"] == 1 and parse(deep)
    assert len(parse("\n".join(f"k{i}: {i}" for i in range(4000)))) == 4000


def test_special_files_are_refused_at_once(tmp_path):
    pipe, zero, folder, large = (tmp_path / f"{name}.yaml" for name in ("pipe", "zero", "folder", "large"))
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    folder.mkdir()
    large.write_text("#" * (LARGEST + 1))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    told = {pipe: "not a regular file", zero: "not a regular file", folder: "Is a directory", large: "1,000,001 bytes"}
    for path, why in {
        **told,
        binary: "not a text in UTF-8: byte 0x80 in line 2",
        tmp_path / "no.yaml": "No such",
    }.items():
        for load in (load_recipe, load_target):
            with pytest.raises(UsageError, match=why):
                load(path)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_a_recipe_is_utf8_and_a_terminal_that_is_not_prints_replacements(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes("\ufeff# été\n".encode() + RECIPE.encode() + "budgets: {latency: 500 µs, target: é}\n".encode())
    code = "import sys\nfrom kdcompress.cli.main import main\nmain(sys.argv[1:])"
    asked = [sys.executable, "-c", code, "run", str(path), "--dry-run"]
    done = subprocess.run(asked, env={**os.environ, **ASCII}, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and "export.targets" in done.stderr and "Traceback" not in done.stderr
    listed = [sys.executable, "-c", f"from kdcompress.console import out\n{code.replace('main(sys', 'out; main(sys')}"]
    done = subprocess.run([*listed, "list", "recipes"], env={**os.environ, **ASCII}, capture_output=True)
    assert done.returncode == 0 and b"fashion-mnist" in done.stdout


def test_a_table_with_other_letters_is_printed_to_an_ascii_terminal():
    code = (
        "import sys, click\nfrom kdcompress.cli.main import main\nfrom kdcompress.report.show import print_table\n"
        "@main.command()\ndef shown():\n    print_table([{'file': '\\xe9t\\xe9 \\u2588'}], {'file': ''})\n"
        "main(['shown'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **ASCII}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["file", "?t?", "?"]), done.stderr
