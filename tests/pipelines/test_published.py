"""The recipes of published tables: each can be planned, and starts, on generated images in the real formats."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import torchvision
from click.testing import CliRunner
from PIL import Image

from kdcompress.cli.main import main
from kdcompress.pipelines.catalogue import shipped_recipes
from kdcompress.pipelines.checks import parse_options
from kdcompress.recipe import load_recipe

RECIPES = {name: load_recipe(path) for name, path in shipped_recipes().items()}
PUBLISHED = [name for name, recipe in RECIPES.items() if recipe.compare.published]
FAST = {"cifar100-resnet56-resnet20": ["dkd-standardized"], "cifar100-wrn40-2-wrn16-2": ["reviewkd"]}
SOME = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in PUBLISHED]


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """CIFAR-100's files with two random images a class for training and one for testing."""
    folder = tmp_path_factory.mktemp("data") / "cifar-100-python"
    folder.mkdir()
    generator, dataset, sums = np.random.default_rng(0), torchvision.datasets.CIFAR100, {}
    for name, n in (("train", 200), ("test", 100), ("meta", 0)):
        batch = {"data": generator.integers(0, 256, (n, 3072), np.uint8), "fine_labels": [i % 100 for i in range(n)]}
        content = pickle.dumps(batch if n else {dataset.meta["key"]: [f"class {i}" for i in range(100)]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    with pytest.MonkeyPatch.context() as patch:  # the files are unpickled only if their checksums are known
        patch.setattr(dataset, "train_list", [["train", sums["train"]]])
        patch.setattr(dataset, "test_list", [["test", sums["test"]]])
        patch.setattr(dataset, "meta", {**dataset.meta, "md5": sums["meta"]})
        yield folder.parent


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root, generator = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, n in (("train", 6), ("test", 2)):
        for name in ("n01440764", "n01443537", "n01484850"):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                image = Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8))
                image.save(root / split / name / f"{i}.jpg")
    return root


@pytest.fixture
def compare(request, name):
    """`kdcompress compare` of the recipe, with two steps a training."""
    family = name.partition("-")[0]
    brief = [f"{part}.{key}" for part in ("train", "teacher.train") for key in ("batch_size=8", "images=16")]
    own = (
        ["data.size=64", "data.augment.crop=8", "teacher.pretrained=false", "teacher.options={}"]
        if family == "imagenet"
        else []
    )
    # a teacher of two steps answers wildly: its batch norms know next to nothing of its activations yet
    careful = ["train.precision=fp32", "train.lr=1.0e-9"]
    overrides = [f"data.root={request.getfixturevalue(family)}", *careful, *brief, *own]

    def run(*arguments):
        found = CliRunner().invoke(main, ["compare", name, *overrides, *map(str, arguments)])
        assert found.exit_code == 0, found.output
        return found.stdout

    return run


def test_there_is_one_for_each_pair_of_the_tables():
    assert len([name for name in PUBLISHED if name.startswith("cifar100-")]) == 12
    assert len([name for name in PUBLISHED if name.startswith("imagenet-")]) == 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_belong_to_methods_that_are_compared(name):
    recipe = RECIPES[name]
    assert set(recipe.compare.published) <= set(recipe.compare.methods)
    assert all(50 < accuracy < 80 for accuracy in recipe.compare.published.values())
    assert {"none", "kd"} <= set(recipe.compare.published)
    assert recipe.teacher.pretrained or recipe.teacher.train.epochs == recipe.train.epochs == 240


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_options_are_the_methods_own(name):
    for method in RECIPES[name].compare.methods.values():
        for kind, options in method.items():
            parse_options(kind, options)


@pytest.mark.parametrize("name", SOME)
def test_it_can_be_planned(name, compare, tmp_path):
    planned = json.loads(compare("--dry-run", "--json", "-m", "none,reviewkd", "-o", tmp_path / "run"))
    assert len(planned) == 2 * RECIPES[name].compare.seeds
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SOME)
def test_it_starts(name, compare, tmp_path):
    published, all_labels = RECIPES[name].compare.published, list(RECIPES[name].compare.methods)
    labels = FAST.get(name, all_labels)
    document = json.loads(compare("-o", tmp_path, "-m", ",".join(labels), "--seeds", "1", "--json"))
    found = [(row["label"], row["n"], row["images_seen"], row["published"]) for row in document["summary"]]
    assert found == [(label, 1, 16, published.get(label)) for label in labels]
