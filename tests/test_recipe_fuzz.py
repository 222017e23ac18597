"""Any value in any key of a recipe: it is valid, or there is one short error with exit code 2 or 3, and soon."""

import json
import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.recipe import load_recipe, read_recipe, validate_recipe

RECIPES = sorted((Path(__file__).parents[1] / "pipelines" / "recipes").glob("*.yaml"))


def nested(kind, depth):
    value = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


VALUES = [
    *(None, [], {}, "", " ", True, -1, 0, 1, 0.5, -0.0, 2**31, 10**18, 2**64, -(10**30), 10**5000, 1e-300, 1e308),
    *(math.inf, -math.inf, math.nan, nested(list, 20), nested(dict, 20), nested(list, 5000), nested(dict, 5000)),
    *("x" * 100_000, ".", "..", "/", "~", "/dev/null", "/dev/zero", "\0", "\x1b]52;c;aGk=\a", "a\nb", "\ud800", "é"),
    *("nan", "1e999", "9" * 5000 + "ms", "-o", "$(id)", "a:b", "torch.hub:load", "../x", b"x", {1: 2}, {"a" * 2000: 1}),
    *([None], [[]], [{}], [1] * 5000, {"": ""}, {"a": math.inf}, ["kd", "kd"], [["kd"]], [5], object(), {1, 2}),
]  # fmt: skip
LONGEST = 9_000  # characters of a message: a screen or two


def places(value, loc=()):
    """Where a value stands in a recipe: its sections, keys and list items."""
    if loc:
        yield loc
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        yield from places(item, (*loc, key))


def changed(data, loc, value):
    """``data`` with ``value`` at ``loc``; the rest is shared."""
    if not loc:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[loc[0]] = changed(copy[loc[0]], loc[1:], value)
    return copy


def written_and_default(path):
    """The recipe with all its keys, those that stand at their defaults too."""
    return load_recipe(path).model_dump(mode="json")


OFTEN = {path.stem.split("-")[0]: path for path in RECIPES}.values()  # the last of each kind
EACH = [pytest.param(path, marks=[pytest.mark.slow] * (path not in OFTEN)) for path in RECIPES]


def tried(data, loc, value):
    began = time.process_time()
    try:
        validate_recipe(changed(data, loc, value), where="r.yaml").model_dump_json()
    except UsageError as error:
        assert len(str(error)) < LONGEST, (loc, len(str(error)))
        assert "0x" not in str(error) and "\x1b" not in str(error) and "\0" not in str(error), (loc, str(error))
    assert time.process_time() - began < 20, loc


def any_value_in_any_key(path, drawn, each):
    count = 0
    for data in (written_and_default(path), read_recipe(path)):
        for loc in places(data):
            for value in drawn.sample(VALUES, each):
                tried(data, loc, value)
                count += 1
    assert count > 100


@pytest.mark.parametrize("path", EACH, ids=lambda path: path.stem)
def test_any_value_in_any_key(path):
    any_value_in_any_key(path, random.Random(path.stem), 2)


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_any_value_in_any_key_with_a_new_seed(path):
    seed = random.randrange(2**32)
    print("seed", seed)
    any_value_in_any_key(path, random.Random(seed), 12)


def test_any_value_in_any_option_of_any_method():
    drawn = random.Random(13)
    for name, method in methods.entries().items():
        for key in (*method.Options.model_fields, "unknown"):
            for value in drawn.sample(VALUES, 20):
                try:
                    options = method.parse_options(name, {key: value})
                except UsageError as error:
                    assert len(str(error)) < LONGEST
                else:
                    found = getattr(options, key)
                    assert not isinstance(found, float) or abs(found) <= 1e9, (name, key, found)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a recipe whose dry run takes no time: tiny images and networks."""
    folder = tmp_path_factory.mktemp("fuzz")
    pixels = np.random.default_rng(0)
    for split, each in (("train", 8), ("test", 3)):
        for label in "ab":
            (folder / "images" / split / label).mkdir(parents=True)
            for index in range(each):
                image = Image.fromarray(pixels.integers(0, 255, (16, 16, 3), np.uint8))
                image.save(folder / "images" / split / label / f"{index}.png")
    (folder / "r.yaml").write_text(
        "name: x\ndata: {source: image-folder, root: images, size: 16, validation: 0.25, augment: {crop: 1}}\n"
        "teacher: {model: tiny_nets:plain, options: {}, train: {epochs: 1}}\n"
        "student: {model: tiny_nets:plain, taps: []}\n"
        "method: {kd: {temperature: 2, weight: 0.5}}\ntrain: {epochs: 1, batch_size: 4}\n"
    )
    return folder


def as_text(value):
    """What stands behind the = of an override; None where the value cannot be written there."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return None


def through_the_command(folder, monkeypatch, drawn, count):
    monkeypatch.chdir(folder)
    known = [loc for loc in places(written_and_default(Path("r.yaml"))) if all(isinstance(key, str) for key in loc)]
    texts = [text for text in map(as_text, VALUES) if text is not None]
    before = sorted(folder.rglob("*"))
    for _ in range(count):
        loc, text = drawn.choice(known), drawn.choice(texts)
        began = time.process_time()
        done = CliRunner().invoke(main, ["run", "r.yaml", "--dry-run", f"{'.'.join(loc)}={text}"])
        told = (loc, text[:80], done.output[-800:], done.exception)
        assert done.exit_code in (0, 2, 3) and isinstance(done.exception, (SystemExit, type(None))), told
        assert "Traceback" not in done.output and len(done.output) < LONGEST, told
        assert time.process_time() - began < 30, told
    assert sorted(folder.rglob("*")) == before


def test_any_value_in_any_key_of_the_command(small, monkeypatch):
    through_the_command(small, monkeypatch, random.Random(13), 40)


@pytest.mark.slow
def test_any_value_in_any_key_of_the_command_with_a_new_seed(small, monkeypatch):
    seed = random.randrange(2**32)
    print("seed", seed)
    through_the_command(small, monkeypatch, random.Random(seed), 1500)
