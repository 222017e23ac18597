"""The recipe's JSON schema: valid, taking what a run takes, and saying what each key means."""

import json

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from kdcompress.cli.main import main
from kdcompress.pipelines.catalogue import recipe_schema, shipped_recipes
from kdcompress.recipe.schema import recipe_schema as bare_schema

BASE = {"name": "x", "data": {"source": "mnist"}, "student": {"model": "resnet8"}}


@pytest.fixture(scope="module")
def validator():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid(validator, name):
    validator.validate(yaml.safe_load(shipped_recipes()[name].read_text()))


@pytest.mark.parametrize(
    "more",
    [
        {"student": {"model": "mine.networks:Small"}, "method": "mine.methods:Own"},
        {"method": ["kd", {"reviewkd": {"weight": 2.0}}]},
        {"method": {"mine:Own": {"anything": 1}, "kd": None}},
        {"export": {"targets": "auto"}, "search": 2},
        {"export": {"targets": ["x86-vnni", "own.yaml"]}},
        {"train": {"compile": True, "teacher_cache": False}},
        {"data": {"source": "cifar10", "augment": {"trivial": True, "blur": {"sigma": [0.1, 1]}, "second": None}}},
        {"data": {"source": "cifar10", "augment": {"randaugment": {"m": None}, "second": {"trivial": "colour"}}}},
        {"student": {"model": "resnet8", "mean": "none", "std": "none"}},
        {"teacher": {"model": "vgg8", "mean": 0.5, "std": 0.2, "weights": "a.pt"}},
        {"gates": {"student_accuracy": 90}, "budgets": {"latency": "2ms", "target": "x86-vnni"}},
    ],
)
def test_what_a_run_takes_is_taken(validator, more):
    validator.validate(BASE | more)


def test_what_is_in_the_base_may_be_left_out(validator):
    validator.validate({"name": "x", "base": "fashion-mnist-demo", "data": {"train_images": 100}})
    assert not validator.is_valid({"name": "x", "data": {"train_images": 100}, "student": {"model": "resnet8"}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"trian": {}},
        {"train": {"epochs": -1}},
        {"method": {"kd": {"temprature": 4}}},
        {"train": {"schedule": "sine"}},
        {"data": {}},
        {"teacher": {"train": {}}},
    ],
)
def test_what_is_wrong_is_seen(validator, wrong):
    assert not validator.is_valid(BASE | wrong)


def test_every_key_has_a_meaning():
    schema = bare_schema()
    for name, part in {**schema["$defs"], "Recipe": schema}.items():
        for key, value in part.get("properties", {}).items():
            assert value.get("description", "").strip(), f"{name}.{key}"


def test_editors_get_names(validator):
    parts = validator.schema["$defs"]
    assert "resnet8" in parts["ModelName"]["anyOf"][0]["enum"]
    assert {"auto", "x86-vnni"} <= set(parts["TargetName"]["anyOf"][0]["enum"])
    assert "kd" in parts["Method"]["anyOf"][0]["anyOf"][0]["enum"]


def test_the_command_prints_it():
    done = CliRunner().invoke(main, ["schema"])
    assert done.exit_code == 0 and json.loads(done.stdout) == recipe_schema()
