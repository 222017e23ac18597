"""`train.tune`: settings are searched on short trainings, before the full one."""

import json
import sys

import pytest
from click.testing import CliRunner
from forked import Forked
from killed import program

from kdcompress.cli.main import main
from kdcompress.errors import UsageError
from kdcompress.methods import methods
from kdcompress.pipelines.parts import parts_of
from kdcompress.pipelines.steps.tune import shortened
from kdcompress.pipelines.trials import Trials
from kdcompress.pipelines.tuned import settings, tuned_recipe, with_values
from kdcompress.recipe import Train, load_recipe, validate_recipe
from kdcompress.report import tuning

SMALL = (
    "fashion-mnist-demo",
    "data.train_images=600",
    "data.validation=0.05",
    "data.augment={}",
    "teacher.model=tiny_nets:plain",
    "student.model=tiny_nets:plain",
    "teacher.train.epochs=1",
    "train.epochs=2",
    "method=kd",
    "export.targets=[]",
    "gates={}",
    "bench.effort=rapid",
    "train.tune={trials: 4, share: 0.5}",
)


def arguments(root, folder, *more):
    return ["run", *SMALL, f"data.root={root}", "-o", str(folder), *more]


def part(method="kd", role="student", **train):
    teacher = {"model": "resnet14", "train": {"epochs": 1}}
    data = {"name": "x", "data": {"source": "mnist"}, "teacher": teacher, "student": {"model": "resnet8"}}
    return parts_of(validate_recipe({**data, "method": method, "train": train}))[role]


# What is searched


def test_the_usual_ranges_by_hand():
    found = {each.name: (each.given, each.low, each.high) for each in settings(part(lr=0.05, tune=2))}
    assert found == {
        "train.lr": (0.05, 0.01, 0.25),
        "method.kd.weight": (0.9, 0.225, pytest.approx(3.6)),
        "method.kd.temperature": (4.0, 1.0, 16.0),
    }


@pytest.mark.parametrize(
    "method, names",
    [
        ("none", []),
        ("dkd", ["dkd.alpha", "dkd.beta", "dkd.temperature"]),
        ("reviewkd", ["reviewkd.weight"]),
        (["kd", {"reviewkd": {"weight": 0}}], ["kd.weight", "kd.temperature"]),  # nothing is around 0
        ({"kd": {"since": 0.1, "task_weight": 0.3}}, ["kd.weight", "kd.temperature"]),
    ],
)
def test_weights_and_temperatures_of_the_method_are(method, names):
    found = [each.name for each in settings(part(method, tune=2))]
    assert found == ["train.lr", *(f"method.{name}" for name in names)]


@pytest.mark.parametrize("name", sorted(methods))
def test_every_method_takes_what_is_tried(name):
    taught = part({name: {}}, tune=2)
    for each in settings(taught):
        assert 0 < each.low <= each.given <= each.high and each.log
        for end in (each.low, each.high):
            with_values(taught, {each.name: end})  # raises where it cannot be


def test_ranges_that_are_given_are_all_that_is_searched():
    ranges = {"train.weight_decay": [0.0, 0.001], "method.kd.task_weight": [0.05, 1]}
    first, second = settings(part(tune={"trials": 2, "ranges": ranges}))
    assert (first.name, first.low, first.high, first.log) == ("train.weight_decay", 0.0, 0.001, False)
    assert (second.name, second.given, second.log) == ("method.kd.task_weight", 0.1, True)


@pytest.mark.parametrize(
    "ranges, said",
    [
        ({"train.lrr": [0.1, 1]}, "did you mean 'train.lr'"),
        ({"train.batch_size": [32, 64]}, "no setting named 'train.batch_size'"),
        ({"train.lr": [0.2, 1]}, "must hold the recipe's own value"),
        ({"train.lr": [0.05, 20]}, "less than or equal to 10"),
        ({"method.kd.temperature": [0, 8]}, "greater than or equal to 0.01"),
    ],
)
def test_ranges_that_cannot_be_searched_are_told(ranges, said):
    with pytest.raises(UsageError) as found:
        settings(part(tune={"trials": 2, "ranges": ranges}))
    assert said in str(found.value)


def test_a_short_training_is_that_share():
    assert shortened(Train(epochs=30), 0.1).epochs == pytest.approx(3)
    assert shortened(Train(images=1000), 0.25).images == 250


def test_the_key_of_a_training_is_as_before():
    assert Train(tune={"trials": 8}).deciding() == Train().deciding() and "tune" not in Train().deciding()


def test_what_cannot_be_tuned_is_refused():
    teacher = {"model": "resnet14", "train": {"epochs": 1}}
    data = {"name": "x", "data": {"source": "mnist"}, "teacher": teacher, "student": {"model": "resnet8"}}
    for more, said in (
        ({"train": {"tune": 1}}, "`trials` must be 2 or more"),
        ({"train": {"tune": {"trials": 2, "ranges": {"train.lr": [1, 0.1]}}}}, "must be the smaller one"),
        ({"export": {"qat": {"tune": 4}}}, "leave `tune` out of export.qat"),
        ({"assistants": [{"model": "resnet8", "train": {"tune": 4}}]}, "leave `tune` out of assistants.0.train"),
        ({"train": {"tune": 4}, "generations": 2}, "not for several `generations`"),
        ({"teacher": {"model": "vgg8", "ensemble": 2, "train": {"tune": 4}}}, "not for an `ensemble`"),
        ({"train": {"tune": 4}, "data": {"source": "mnist", "public": 0.5}}, "private teachers"),
    ):
        with pytest.raises(UsageError) as found:
            validate_recipe(data | more)
        assert said in str(found.value), more


def test_a_comparison_refuses_it(tmp_path):
    found = CliRunner().invoke(main, ["compare", *SMALL, "-o", str(tmp_path), "--dry-run"])
    assert found.exit_code == 2 and "train.tune=0" in found.stderr


def test_a_missing_package_is_told_first(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    found = CliRunner().invoke(main, arguments(tmp_path, tmp_path / "run", "--dry-run"))
    assert found.exit_code == 3 and "pip install 'kdcompress[tune]'" in found.stderr


def test_assistants_keep_what_they_were_trained_with():
    teacher = {"model": "resnet14", "train": {"epochs": 1}}
    data = {"name": "x", "data": {"source": "mnist"}, "teacher": teacher, "student": {"model": "resnet8"}}
    recipe = validate_recipe({**data, "assistants": [{"model": "resnet8"}], "method": "kd", "train": {"tune": 4}})
    before = parts_of(recipe)
    assert not before["assistant-1"].is_tuned and before["student"].is_tuned
    won = tuned_recipe(recipe, before, {"student": {"train.lr": 0.3, "method.kd.weight": 2.0}})
    after = parts_of(won)
    first, second = (
        [getattr(each["assistant-1"], key) for key in ("train", "method", "seed")] for each in (before, after)
    )
    assert first == second and not after["student"].is_tuned
    assert after["student"].train.lr == 0.3 and after["student"].method == {"kd": {"weight": 2.0}}


# The trials


def search(journal, interrupted=()):
    """Six trials of a function with its best at lr 0.1 and weight 1, left at the moments that are given."""
    pytest.importorskip("optuna")
    searched, moments = settings(part(lr=0.05, tune=6)), iter(range(1000))

    def going_on():
        if next(moments) in interrupted:
            raise InterruptedError

    while True:
        try:
            trials = Trials(journal, searched, 6, seed=3)
            while trial := trials.next():
                going_on()
                found = trials.values(trial)
                score = -abs(found["train.lr"] - 0.1) - abs(found["method.kd.weight"] - 1)
                going_on()
                for step in (1, 2, 3):
                    trials.length(4)
                    behind = trials.falls_behind(trial, score, step)
                    going_on()
                    if behind:
                        trials.stop(trial)
                        break
                else:
                    trials.complete(trial, score)
            return trials.records()
        except InterruptedError:
            continue


def test_trials_are_a_function_of_the_seed_however_often_they_are_interrupted(tmp_path):
    whole = search(tmp_path / "whole")
    assert [each["state"] for each in whole].count("complete") >= 2 and len(whole) == 6
    assert {each["percent"] for each in whole if each["state"] == "stopped"} == {25}
    assert whole[0]["values"] == {"train.lr": 0.05, "method.kd.weight": 0.9, "method.kd.temperature": 4.0}
    assert len({each["values"]["train.lr"] for each in whole}) == 6
    for number, moments in enumerate(([0, 3, 4, 9], [1, 2, 5, 6, 7, 8, 20], range(1, 40, 2))):
        assert search(tmp_path / str(number), set(moments)) == whole


# Runs


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, fashion_mnist_root):
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("tuned")
    done = CliRunner().invoke(main, arguments(fashion_mnist_root, folder, "--json"))
    assert done.exit_code == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def test_the_winner_is_the_best_on_validation(tuned):
    folder, document, said = tuned
    [found] = document["tuning"]
    trials = found["trials"]
    complete = [each["score"] for each in trials if each["state"] == "complete"]
    assert len(trials) == 4 and trials[found["best"]]["score"] == max(complete)
    assert found["winner"].items() <= trials[found["best"]]["values"].items()
    assert said.count("tune student: trial") >= 4 and (folder / "tuned.yaml").exists()
    [student] = [each for each in document["training"] if each["role"] == "student"]
    assert len(student["history"]) == 2  # in full, after the search
    params = json.loads(next(folder.glob("steps/student/*/step.json")).read_text())["params"]
    assert params["train"]["lr"] == trials[found["best"]]["values"]["train.lr"]
    assert {p.name for p in next(folder.glob("steps/tune-student/*")).iterdir()} == {"step.json", "optuna.log"}


def test_the_recipe_that_won_is_a_recipe_of_this_very_training(tuned, fashion_mnist_root):
    folder, document, _ = tuned
    recipe = load_recipe(folder / "tuned.yaml")
    assert recipe.train.tune.trials == 0
    again = CliRunner().invoke(main, ["run", str(folder / "tuned.yaml"), "-o", str(folder), "--dry-run", "--json"])
    assert {each["state"] for each in json.loads(again.stdout)} == {"done"}


def test_a_second_run_does_nothing(tuned, fashion_mnist_root):
    folder, document, _ = tuned
    again = CliRunner().invoke(main, arguments(fashion_mnist_root, folder, "--json"))
    found = json.loads(again.stdout)
    assert all(step["reused"] for step in found["steps"]) and found["tuning"] == document["tuning"]
    names = [step["name"] for step in found["steps"]]
    assert names.index("teacher") < names.index("tune-student") < names.index("student")


def test_every_form_of_the_report_says_what_was_tried(tuned):
    folder, document, _ = tuned
    head = "| trial | train.lr | method.kd.weight | method.kd.temperature | validation accuracy % | outcome |"
    assert (
        head in (folder / "report.md").read_text() and "4 trials for the student" in (folder / "report.md").read_text()
    )
    assert "<h2>Settings tried for the student</h2>" in (folder / "report.html").read_text()


KILLED = program(
    "engine.CHECKPOINT_SECONDS = 0.0",
    """
import json
from kdcompress.pipelines.steps.names import tuned
print(json.dumps(run.done[tuned("student")].result["trials"]))
""",
)


def test_killed_it_goes_on_with_the_same_trials(tuned, tmp_path):
    folder, document, _ = tuned
    given = (folder / "recipe.yaml", tmp_path)
    status, _, errors = Forked(KILLED, 7, *given).ended()  # in the second trial
    assert status == -9, errors
    assert list(tmp_path.glob("steps/tune-student/*.partial/trial-1/checkpoint.pt"))
    status, output, errors = Forked(KILLED, 1000, *given).ended()
    assert status == 0, errors
    assert json.loads(output) == document["tuning"][0]["trials"]


# What the report says, by hand


def record(*scores, winner, noise=1.0, share=0.1):
    trials = [
        {"values": {"train.lr": 0.1 * (i + 1)}, "state": "complete", "score": score, "percent": None, "why": None}
        for i, score in enumerate(scores)
    ]
    best = scores.index(max(scores))
    return {"role": "student", "share": share, "trials": trials, "best": best, "winner": winner, "noise": noise}


@pytest.mark.parametrize(
    "found, said",
    [
        (
            record(80.0, 83.0, winner={"train.lr": 0.2}),
            "train.lr 0.2 won 2 trials for the student, each 10 % of the full training: 83.00 % of validation, "
            "80.00 % with the recipe's own settings.",
        ),
        (
            record(82.5, 83.0, winner={"train.lr": 0.2}),
            "train.lr 0.2 won 2 trials for the student, each 10 % of the full training: 83.00 % of validation, "
            "82.50 % with the recipe's own settings, no difference shown.",
        ),
        (
            record(84.0, 83.0, winner={}),
            "The recipe's own settings won 2 trials for the student, each 10 % of the full training: 84.00 % of "
            "validation.",
        ),
    ],
)
def test_sentences(found, said):
    assert tuning.sentences({"tuning": [found]}) == [said]


def test_a_table_has_the_best_first_and_says_why_others_ended():
    found = record(80.0, 83.0, 70.0, 60.0, winner={"train.lr": 0.2})
    found["trials"][2] |= {"state": "stopped", "percent": 50}
    found["trials"][3] |= {"state": "failed", "score": None, "why": "The training diverged"}
    [(title, titles, lines, note)] = tuning.tables({"tuning": [found]}, "accuracy")
    assert title == "Settings tried for the student" and titles[-2] == "validation accuracy %"
    assert [(line[0], line[-1]) for line in lines] == [
        ("2", "won"),
        ("1", "the recipe's own"),
        ("3", "stopped at 50 %"),
        ("4", "failed: The training diverged"),
    ]
    assert lines[3][2] == "–" and "10 % of the full training" in note
