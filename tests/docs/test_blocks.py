"""Every block of the README and of docs/ is run as a reader would, a page's blocks in order, in one folder a page."""

import ast
import re
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from blocks import CONVENTION, SHOWN, Page, read
from click.testing import CliRunner
from PIL import Image
from quick_runs import untried

from kdcompress import strict_yaml
from kdcompress.bench import timing
from kdcompress.cli.main import main
from kdcompress.data import from_scenes
from kdcompress.recipe import validate_recipe

ROOT = Path(__file__).parents[2]
PAGES = [read(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
EXTRAS = set(re.findall(r'^    "([\w-]+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE))
TRAINING = {"training.md", "detection.md", "instances.md", "segmentation.md", "choosing.md"}  # whole runs, several
RECIPES = {path.name for path in (ROOT / "pipelines/recipes").glob("*.yaml")}
TAKES_OVERRIDES = {
    name for name, command in main.commands.items() if any(p.name == "overrides" for p in command.params)
}
TINY = """
name: mine
data: {source: image-folder, root: photos, size: 32}
teacher: {model: resnet8, train: {images: 64}}
student: {model: resnet8}
method: kd
train: {images: 64}
export: {targets: [onnx-fp16], max_drop: 100}
"""


def photos(folder):
    """Two classes of 40 pictures: noise on a colour."""
    rng = np.random.default_rng(0)
    for kind, colour in {"cat": (200, 90, 40), "dog": (40, 90, 200)}.items():
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(40):
            pixels = (np.array(colour) + rng.integers(-40, 40, (40, 48, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{number}.jpg")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with photos and runs/mine, made once."""
    folder = tmp_path_factory.mktemp("finished")
    photos(folder)
    (folder / "mine.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick(patch)
        command("kdcompress run mine.yaml", "bench.effort=rapid")
    return folder


def quick(patch):
    """Nothing is exported before a training, files are timed for a moment, and scenes are few: what a page says of its
    times and scores is not tested."""
    for split in ("validation", "test"):
        patch.setitem(from_scenes.COUNTS, split, 24)
    untried(patch)
    patch.setattr(timing, "EFFORTS", {effort: (queries, 0.1) for effort, (queries, _) in timing.EFFORTS.items()})


def command(line, short=""):
    """Runs a line, or checks what can be checked of one that changes the machine. AssertionError: what failed."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    if words[0] == "kdcompress":
        output = words[words.index(">") + 1] if ">" in words else None
        words = words[: words.index(">")] if output else words
        assert not {"|", "&&", ";"} & set(words), "one command a line"
        built_in = words[1:2] and words[1] in {"run", "compare", "plan"} and f"{words[2]}.yaml" in RECIPES
        assert short or not built_in, f"it takes minutes: say `<!-- short: KEY=VALUE -->` above its block.{CONVENTION}"
        more = shlex.split(short) if words[1:2] and words[1] in TAKES_OVERRIDES else []
        done = CliRunner().invoke(main, words[1:] + more)
        assert done.exit_code == 0, f"exit code {done.exit_code}\n{done.output}"
        if output:
            Path(output).write_text(done.stdout)
        return "run"
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        made = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(targets) <= set(made), f"make has no target of that name: {targets}"
        return "make"
    if words[:2] == ["pip", "install"]:
        named = {extra for each in re.findall(r"\[(.*?)\]", line.split("#")[0]) for extra in each.split(",")}
        assert named <= EXTRAS, f"setup.py has no such extra: {named - EXTRAS}"
        return "pip"
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        assert (ROOT / words[1]).exists(), f"there is no {words[1]}"
        options = [word for word in words if word.startswith("--")]
        text = (ROOT / words[1]).read_text()
        assert all(f'"{option}"' in text for option in options), f"{words[1]} has no such option: {options}"
        return "benchmark"
    raise AssertionError(f"no rule runs this line; say `<!-- not run: REASON -->` above its block.{CONVENTION}")


def follow(block, names):
    """What came of the block."""
    if "not run" in block.said:
        if block.language == "python":
            ast.parse(block.body)
        return "not run"
    if block.language in SHOWN and "file" not in block.said:
        return "shown"
    if "file" in block.said:
        Path(block.said["file"]).write_text(block.body)
    if block.language == "yaml":
        return recipe(block.body)
    if block.language == "console":
        kinds = {command(line, block.said.get("short", "")) for line in block.commands()}
        return "run" if "run" in kinds else "checked"
    if block.language == "python" and "file" not in block.said:
        exec(compile(block.body, block.place, "exec"), names)
        return "run"
    return "written"


def recipe(text):
    path = Path("block.yaml")
    path.write_text(text)
    found = strict_yaml.read(path, "recipe")
    path.unlink()
    if {"name", "data"} <= set(found):
        validate_recipe(found)
        return "validated"
    return "read"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in TRAINING))
        for page in PAGES
        if page.blocks
    ],
)
def test_blocks(page: Page, request, tmp_path, monkeypatch, fashion_mnist_root):
    monkeypatch.setenv("KDCOMPRESS_DATA", str(fashion_mnist_root))  # a part of what a reader downloads
    if "run" in page.needs:
        shutil.copytree(request.getfixturevalue("finished"), tmp_path, dirs_exist_ok=True)
    elif "photos" in page.needs:
        photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    quick(monkeypatch)
    before, names = set(sys.modules), {"__name__": "__main__"}
    try:
        for block in page.blocks:
            try:
                follow(block, names)
            except BaseException as error:
                pytest.fail(f"{block.place}:\n{block.body}\n{type(error).__name__}: {error}", pytrace=False)
    finally:  # what a page calls nets.py is not the next page's
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
                del sys.modules[name]


def test_pages_keep_to_the_convention():
    assert not [wrong for page in PAGES for wrong in page.wrong], CONVENTION


def test_pages_ask_for_what_there_is():
    assert {need for page in PAGES for need in page.needs} <= {"photos", "run"}


def test_the_blocks_are_counted():
    """Most are run; what is not is printed with its reason (pytest -s)."""
    blocks = [block for page in PAGES for block in page.blocks]
    left = [block for block in blocks if "not run" in block.said]
    print(dict(Counter(block.language for block in blocks)), f"{len(blocks) - len(left)} of {len(blocks)} followed")
    for block in left:
        print(f"not run: {block.place}: {block.said['not run']}")
    assert len(left) < len(blocks) / 2
