"""Recipes: every shipped one is valid, and every mistake is named, all at once."""

from pathlib import Path

import pytest

from kdcompress.errors import UsageError
from kdcompress.recipe import load_recipe, validate_recipe

SHIPPED = Path(__file__).parents[1] / "pipelines" / "recipes"
RECIPES = sorted(SHIPPED.glob("*.yaml"))
PRUNED = {"prune": "teacher", "ratio": 0.5}
MINIMAL = {"name": "x", "data": {"source": "fashion-mnist"}, "student": {"model": "resnet8"}}


def test_there_are_shipped_recipes():
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipe_is_valid_and_says_what_it_is_for(path):
    assert load_recipe(path).name == path.stem
    about = path.read_text().splitlines()[0]  # what `kdcompress list recipes` shows
    assert about.startswith("# ") and about.endswith(".")


@pytest.mark.parametrize("path", sorted((SHIPPED / "protocols").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_protocol_is_the_base_of_a_recipe(path):
    assert any(f"\nbase: protocols/{path.stem}\n" in recipe.read_text() for recipe in RECIPES)
    assert path.read_text().startswith("# ")


def write(tmp_path, text, name="recipe.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


BASE = """
name: base
data: {source: mnist, augment: {crop: 2, flip: true}}
teacher: {model: vgg8, train: &same {epochs: 7, lr: 0.3}}
student: {model: resnet8}
train: *same
method: {kd: {temperature: 2}}
compare: {methods: {none: none, kd: {kd: {temperature: 2, weight: 0.5}}}, published: {kd: 90}}
"""


def test_a_recipe_is_merged_into_its_base(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    own = "data: {augment: {crop: 4}}\ntrain: {lr: 0.1}\nmethod: {dkd: {beta: 2}}\n"
    own += "compare: {methods: {kd: {kd: {weight: 0.7}}, at: at}}\n"
    recipe = load_recipe(write(tmp_path, f"name: own\nbase: base\n{own}"), ("data.augment.flip=false",))
    assert (recipe.name, recipe.data.augment.crop, recipe.data.augment.flip) == ("own", 4, False)
    assert (recipe.train.epochs, recipe.train.lr, recipe.teacher.train.lr) == (7, 0.1, 0.3)
    assert recipe.method == {"dkd": {"beta": 2}}  # what describes a method is replaced as a whole
    assert recipe.compare.methods == {"none": {"none": {}}, "kd": {"kd": {"weight": 0.7}}, "at": {"at": {}}}
    assert recipe.compare.published == {"kd": 90}


def test_a_base_may_have_a_base_and_may_be_a_shipped_recipe(tmp_path):
    (tmp_path / "far").mkdir()
    write(tmp_path, "name: near\nbase: fashion-mnist\ntrain: {lr: 0.4}\n", "far/near.yaml")
    recipe = load_recipe(write(tmp_path, "name: own\nbase: far/near.yaml\ntrain: {epochs: 2}\n"))
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.schedule) == (0.4, 2, "one-cycle")
    same = load_recipe(write(tmp_path, "name: own\nbase: fashion-mnist\n", "fashion-mnist.yaml"))
    assert same.student.model == "resnet8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nbase: nowhere\n", "base was not found(.|\n)*nowhere.yaml or .*recipes/nowhere.yaml"),
        ("name: x\nbase: [a, b]\n", "the name of another"),
        ("name: x\nbase: recipe.yaml\n", "leads back to itself"),
        ("name: x\nbase: there\n", "leads back to itself(.|\n)*recipe.yaml -> .*there.yaml -> .*recipe.yaml"),
        ("base: fashion-mnist\n", "name: Field required"),
        ("name: x\nbase: broken\n", "not valid YAML(.|\n)*broken.yaml"),
    ],
)
def test_a_base_that_cannot_be_used(tmp_path, text, message):
    write(tmp_path, "base: recipe\n", "there.yaml")
    write(tmp_path, "a: [1,", "broken.yaml")
    with pytest.raises(UsageError, match=message):
        load_recipe(write(tmp_path, text))


def test_an_override_changes_one_place_of_an_anchor(tmp_path):
    recipe = load_recipe(write(tmp_path, BASE), ("train.epochs=3",))
    assert (recipe.train.epochs, recipe.teacher.train.epochs) == (3, 7)


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
        ({"teacher": {"model": "vgg8"}}, "give one of `weights`"),
        ({"teacher": {"model": "vgg8", "weights": "a.pt", "train": {}}}, "give one of `weights`"),
        ({"student": {"model": "vgg8", "pretrained": True, "weights": "a.pt"}}, "either `weights` or `pretrained`"),
        ({"student": {}}, "student: give either `model`, or `prune: teacher`"),
        ({"student": {"model": "vgg8", **PRUNED}}, "student: give either `model`, or `prune: teacher`"),
        ({"student": PRUNED}, "`prune: teacher` needs a `teacher`"),
        ({"assistants": [PRUNED]}, "`prune: teacher` needs a `teacher`"),
        ({"student": {"prune": "teacher"}}, "`prune` needs a `ratio`"),
        ({"student": {**PRUNED, "ratio": 0}}, "`prune` needs a `ratio`"),
        ({"student": {**PRUNED, "ratio": 1}}, "student.ratio: Input should be less than 1"),
        ({"student": {**PRUNED, "ratio": -0.5}}, "student.ratio: Input should be greater than or equal to 0"),
        ({"student": {**PRUNED, "importance": "l1"}}, "student.importance: Input should be 'group-norm'"),
        ({"student": {**PRUNED, "prune": "vgg8"}}, "student.prune: Input should be 'teacher'"),
        ({"student": {**PRUNED, "weights": "a.pt", "mean": [0.5]}}, "leave `mean`, `weights` out: the network that is"),
        ({"student": {"model": "vgg8", "round_to": 8}}, "leave `round_to` out: only `prune` takes it"),
        ({"teacher": {**PRUNED, "train": {}}}, "teacher.prune: unknown key"),
        ({"train": None}, "needs `student.weights`"),
        ({"method": ["kd", "kd"]}, "kd is there twice"),
        ({"method": []}, "method: name at least one method"),
        ({"method": {}}, "method: name at least one method"),
        ({"method": [5]}, "method: a method is a name"),
        ({"method": {"kd": {"temperature": float("inf")}}}, "method.kd.temperature: a finite number of 64 bits"),
        ({"compare": {"methods": {"own": []}}}, "compare.methods.own: name at least one method"),
        ({"seed": 10**30}, "seed: a finite number of 64 bits"),
        ({"seed": 2**40}, "seed: Input should be less than or equal to 4000000000"),
        ({"train": {"images": 10**18}}, "train.images: Input should be less than"),
        ({"train": {"milestones": [2]}}, "train.milestones.0: Input should be less than 1"),
        ({"student": {"model": "resnet8", "options": {"depth": float("nan")}}}, "student.options.depth: a finite"),
        ({"student": {"model": "resnet8", "std": [0]}}, "student.std.0: Input should be greater than"),
        ({"student": {"model": ""}}, "student: give either `model`"),
        ({"export": {"targets": [""]}}, "export.targets.0: String should have at least 1 character"),
        ({"data": {"source": "mnist", 5: 1}}, "data.5: a key is a short text"),
        ({"data": {"source": "a\x1b[2J"}}, "data.source: control characters"),
        ({"budgets": {"size": "9" * 400 + "GB"}}, "budgets.size: 9"),
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


@pytest.mark.parametrize(
    ("text", "ms"), [("2ms", 2.0), ("500us", 0.5), ("500 µs", 0.5), (".01s", 10.0), ("1.5 MS", 1.5)]
)
def test_a_time_has_its_unit(text, ms):
    budgets = validate_recipe({**MINIMAL, "budgets": {"latency": text}}).budgets
    assert budgets.latency_ms == pytest.approx(ms) and budgets.latency == text


@pytest.mark.parametrize(
    ("text", "count"), [("500kB", 500_000), ("1.5MB", 1_500_000), ("512KiB", 524_288), ("80b", 80)]
)
def test_a_size_has_its_unit(text, count):
    budgets = validate_recipe({**MINIMAL, "budgets": {"size": text, "memory": text}}).budgets
    assert budgets.size_bytes == budgets.memory_bytes == count


@pytest.mark.parametrize("value", [2, 2.5, "2", "ms", "-2ms", "0ms", "2 parsec", "1.2.3ms", True, ""])
def test_a_number_without_its_unit_is_refused_with_what_is_allowed(value):
    with pytest.raises(UsageError) as caught:
        validate_recipe({**MINIMAL, "budgets": {"latency": value, "size": value}})
    assert "500us, 2ms" in str(caught.value) and "500kB, 1.5MB" in str(caught.value)


def test_budgets_are_of_something_that_is_built():
    for own, told in (
        ({"budgets": {"drop": 1}}, "teacher"),
        ({"budgets": {"target": "x86-vnni"}}, "export.targets"),
        ({"search": 2}, "kdcompress plan"),
        (
            {"budgets": {"candidates": [{"student": {"modle": "x"}, "macs": 1, "parameters": 1}]}},
            "did you mean 'model'",
        ),
    ):
        with pytest.raises(UsageError, match=told):
            validate_recipe({**MINIMAL, **own})


def test_an_option_without_a_space_after_its_colon():
    student = {"model": "resnet8", "options": {"img_size:32": None}}  # as YAML reads {img_size:32}
    with pytest.raises(UsageError, match="put a space after the colon"):
        validate_recipe({"name": "x", "data": {"source": "mnist"}, "train": None, "student": student})
