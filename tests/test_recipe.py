"""Recipes: every shipped one is valid, and every mistake is named, all at once."""

from pathlib import Path

import pytest

from kdcompress.errors import UsageError
from kdcompress.recipe import load_recipe, validate_recipe

RECIPES = sorted((Path(__file__).parents[1] / "pipelines" / "recipes").rglob("*.yaml"))
MINIMAL = {"name": "x", "data": {"source": "fashion-mnist"}, "student": {"model": "resnet8"}}


def test_there_are_shipped_recipes():
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipe_is_valid_and_says_what_it_is_for(path):
    assert load_recipe(path).name == path.stem
    assert path.read_text().startswith("# ")


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studnet": {}}, "studnet: unknown key; did you mean 'student'?"),
        ({"train": {"epoch": 3}}, "train.epoch: unknown key; did you mean 'epochs'?"),
        ({"train": {"epochs": "many"}}, "train.epochs: Input should be a valid number"),
        ({"train": {"lr": -1}}, "train.lr: Input should be greater than 0"),
        ({"train": {"schedule": "cosin"}}, "train.schedule: Input should be 'cosine'"),
        ({"export": {"opset": 7}}, "export.opset: Input should be greater than or equal to 18"),
        ({"export": {"layout": "hwc"}}, "export.layout"),
        ({"data": {}}, "data.source: Field required"),
        ({"teacher": {"model": "vgg8"}}, "give either `weights`"),
        ({"train": None}, "needs `student.weights`"),
        ({"method": ["kd", "kd"]}, "kd stands twice"),
        ({"name": "../up"}, "name: String should match pattern"),
    ],
)
def test_mistake_is_named(change, message):
    with pytest.raises(UsageError) as caught:
        validate_recipe({**MINIMAL, **change})
    assert message in str(caught.value)


def test_all_mistakes_at_once():
    with pytest.raises(UsageError) as caught:
        validate_recipe({**MINIMAL, "train": {"lr": 0, "epochs": -1}, "extra": 1})
    assert "3 problems" in str(caught.value)


def test_missing_file_and_bad_yaml(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_recipe(write(tmp_path, "a: [1,"))
    with pytest.raises(UsageError, match="mapping"):
        load_recipe(write(tmp_path, "- 1"))


def test_overrides(tmp_path):
    path = write(tmp_path, "name: x\ndata: {source: mnist}\nstudent: {model: resnet8}\nmethod: kd\n")
    recipe = load_recipe(path, ("train.epochs=3", "method.kd.temperature=2", "export.targets=[x86-vnni]"))
    assert recipe.train.epochs == 3
    assert recipe.method == {"kd": {"temperature": 2}}
    assert recipe.export.targets == ("x86-vnni",)
    for bad in ("train.epochs", "=3", "train..epochs=3", "name.sub=3"):
        with pytest.raises(UsageError):
            load_recipe(path, (bad,))


@pytest.mark.parametrize("given", ["kd", ["kd"], {"kd": None}, {"kd": {}}])
def test_method_is_a_name_a_list_or_a_mapping(given):
    assert validate_recipe({**MINIMAL, "method": given}).method == {"kd": {}}
