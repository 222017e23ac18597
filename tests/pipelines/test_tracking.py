"""Trackers are told of real trainings; what they keep is read back by their own means."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from forked import Forked
from killed import program

from kdcompress.cli.main import main
from kdcompress.pipelines import tracking
from kdcompress.pipelines.catalogue import shipped_recipes
from kdcompress.pipelines.provenance import save_recipe
from kdcompress.recipe import TRACKERS, load_recipe
from kdcompress.training.trackers import EXTRAS, Tracker, trackers

SMALL = (
    "fashion-mnist-demo",
    "data.train_images=600",
    "data.validation=0.05",
    "data.augment={}",
    "teacher.model=tiny_nets:plain",
    "student.model=tiny_nets:plain",
    "teacher.train.epochs=2",
    "train.epochs=3",
    "method={kd: {weight: 0.5}}",
    "export.targets=[]",
    "gates={}",
    "bench.effort=rapid",
)
STEPS = 570 // 128  # an epoch's


def arguments(root, folder, *more):
    return ["run", *SMALL, f"data.root={root}", "-o", str(folder), *more]


def run(*given):
    return CliRunner().invoke(main, arguments(*given))


def scalars(folder):
    """tag -> [(step, value)] of a TensorBoard run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def texts(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    tags = [tag for tag in found.Tags()["tensors"] if tag.endswith("/text_summary")]
    return {tag.split("/")[0]: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags}


def close(found, wanted):
    assert [step for step, _ in found] == [step for step, _ in wanted]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-5)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, fashion_mnist_root):
    """A run that tells TensorBoard and MLflow."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        done = run(fashion_mnist_root, folder / "run", "track=[tensorboard, mlflow]", "--json")
        assert done.exit_code == 0, done.stderr
        yield folder / "run", json.loads(done.stdout)


@pytest.mark.parametrize("role, terms", [("teacher", ["task"]), ("student", ["kd", "task"])])
def test_tensorboard_has_what_the_report_has(tracked, role, terms):
    folder, document = tracked
    history = next(each for each in document["training"] if each["role"] == role)["history"]
    found = scalars(folder / "tensorboard" / role)
    for term in terms:  # a window is an epoch here
        close(found[f"loss/{term}"], [(each["step"], each["terms"][term]) for each in history])
    close(found["loss/total"], [(each["step"], each["loss"]) for each in history])
    close(found["lr"], [(each["step"], each["lr"]) for each in history])
    close(found["validation/accuracy"], [(each["step"], each["validation_score"]) for each in history])
    assert [step for step, _ in found["images_per_second"]] == [STEPS * (i + 1) for i in range(len(history))]


def test_tensorboard_has_recipe_rows_and_report(tracked):
    folder, document = tracked
    found, said = scalars(folder / "tensorboard/student"), texts(folder / "tensorboard/student")
    rows = {row["name"]: row for row in document["rows"]}
    for name, row in rows.items():
        close(found[f"files/{name}/accuracy"], [(0, row["score"])])
        close(found[f"files/{name}/latency_ms"], [(0, row["latency"]["median_ms"])])
        close(found[f"files/{name}/bytes"], [(0, row["bytes"])])
    assert said["report"] == (folder / "report.md").read_text()
    assert "| method.kd.weight | 0.5 |" in said["settings"] and "weight: 0.5" in said["recipe"]


def test_mlflow_has_the_same(tracked, tmp_path):
    import mlflow

    folder, document = tracked
    client = mlflow.MlflowClient()
    [experiment] = [each for each in client.search_experiments() if each.name == "fashion-mnist-demo"]
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"teacher", "student"} and {each.info.status for each in runs.values()} == {"FINISHED"}
    for training in document["training"]:
        made = runs[training["role"]]

        def history(name, made=made):
            return [(each.step, each.value) for each in client.get_metric_history(made.info.run_id, name)]

        close(history("loss/task"), [(each["step"], each["terms"]["task"]) for each in training["history"]])
        wanted = [(each["step"], each["validation_score"]) for each in training["history"]]
        close(history("validation/accuracy"), wanted)
        assert made.data.params["role"] == training["role"] and made.data.params["model"] == "tiny_nets:plain"
    student = runs["student"]
    assert student.data.params["method.kd.temperature"] == "4.0" and student.data.params["train.epochs"] == "3.0"
    assert student.data.metrics["files/student-fp32/bytes"] == document["rows"][1]["bytes"]
    files = {each.path for each in client.list_artifacts(student.info.run_id)}
    assert files == {"recipe.yaml", "report.md", "report.html", "report.json"}
    local = mlflow.artifacts.download_artifacts(run_id=student.info.run_id, artifact_path="recipe.yaml")
    assert load_recipe(Path(local)) == load_recipe(folder / "recipe.yaml")


def test_again_nothing_is_told_twice(tracked, fashion_mnist_root):
    import mlflow

    folder, document = tracked
    before = scalars(folder / "tensorboard/student")
    assert run(fashion_mnist_root, folder, "track=[tensorboard, mlflow]").exit_code == 0
    assert scalars(folder / "tensorboard/student") == before
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == 2


def test_it_is_no_part_of_what_was_trained(tracked, fashion_mnist_root):
    folder, _ = tracked
    states = json.loads(run(fashion_mnist_root, folder, "--dry-run", "--json").stdout)
    assert {state["state"] for state in states} == {"done"}
    assert not list(folder.glob("steps/*/*/tracked.json"))


def test_trained_again_it_is_another_run(tracked, fashion_mnist_root):
    folder, _ = tracked
    first = scalars(folder / "tensorboard/student")
    assert run(fashion_mnist_root, folder, "track=tensorboard", "--force", "student").exit_code == 0
    assert scalars(folder / "tensorboard/student") == first
    assert scalars(folder / "tensorboard/student-2")["loss/kd"] == first["loss/kd"]


KILLED = program("tracking.EVERY_SECONDS, engine.CHECK_EVERY = 0.0, 1")


def test_killed_it_goes_on_in_the_same_run(tmp_path, fashion_mnist_root):
    """The steps after the checkpoint, that of the first epoch's end, were told of and are told again, once."""
    pytest.importorskip("tensorboard")
    changed = (*SMALL[1:], f"data.root={fashion_mnist_root}", "track=tensorboard", "teacher=null", "method=none")
    given = (tmp_path / "recipe.yaml", tmp_path)
    save_recipe(load_recipe(shipped_recipes()[SMALL[0]], changed), tmp_path)
    status, _, errors = Forked(KILLED, STEPS + 3, *given).ended()
    assert status == -9, errors
    [place] = (tmp_path / "tensorboard").iterdir()
    assert [step for step, _ in scalars(place)["loss/task"]] == list(range(1, STEPS + 3))
    status, _, errors = Forked(KILLED, 1000, *given).ended()
    assert status == 0, errors
    assert list((tmp_path / "tensorboard").iterdir()) == [place]
    found = scalars(place)
    assert [step for step, _ in found["loss/task"]] == list(range(1, 3 * STEPS + 1))
    assert [step for step, _ in found["validation/accuracy"]] == [STEPS, 2 * STEPS, 3 * STEPS]


# What goes wrong


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_told_first(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    found = run(tmp_path, tmp_path / "run", f"track=[{name}]", "--dry-run")
    assert found.exit_code == 3 and f"pip install 'kdcompress[{EXTRAS[name]}]'" in found.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_told(tmp_path):
    found = run(tmp_path, tmp_path / "run", "track=[tensorbord]")
    assert found.exit_code == 2 and "'tensorboard', 'mlflow', 'wandb' or 'trackio'" in found.stderr


class Broken(Tracker):
    """Works until the second epoch."""

    def __init__(self, project, name, folder, id, step):
        if not os.environ.get("BROKEN_STARTS"):
            raise ConnectionError("nobody is there")
        self.id, self.run = "1", None

    def log(self, values, step):
        if step > STEPS:
            raise ConnectionError("the line is cut")

    def settings(self, values, recipe):
        pass

    def finals(self, values, pages):
        raise ConnectionError("still cut")

    def end(self, failed=False):
        pass


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setitem(trackers.entries() and trackers._entries, "tensorboard", Broken)
    monkeypatch.setattr(tracking, "_worked", set())
    pytest.importorskip("tensorboard")


def test_a_tracker_that_cannot_be_used_is_an_error(broken, tmp_path, fashion_mnist_root):
    found = run(fashion_mnist_root, tmp_path, "track=tensorboard", "teacher=null", "method=none")
    assert found.exit_code == 1 and "The tracker tensorboard cannot be used" in found.stderr
    assert "nobody is there" in found.stderr and not list(tmp_path.glob("steps/*/*/step.json"))


def test_one_that_fails_later_ends_no_training(broken, tmp_path, fashion_mnist_root, monkeypatch):
    monkeypatch.setenv("BROKEN_STARTS", "1")
    found = run(fashion_mnist_root, tmp_path, "track=tensorboard", "teacher=null", "method=none")
    assert found.exit_code == 0, found.stderr
    assert found.stderr.count("tensorboard is told no more: ConnectionError: the line is cut") == 1


OFFLINE = """
import sys
from pathlib import Path
from accelerate import PartialState
from kdcompress.training.trackers import trackers

PartialState()
name, folder, id = sys.argv[1], Path(sys.argv[2]), None
(folder / "report.md").write_text("# report")
for first, last in ((25, 50), (50, 75)):  # the second goes on after an interruption
    tracker = trackers[name]("project", "student", folder, id, None if id is None else first)
    if id is None:
        tracker.settings({"train.lr": 0.1}, "name: x")
    for step in (first, last):
        tracker.log({"loss/total": 1 / step}, step)
    id = tracker.id
    tracker.finals({"files/student-fp32/bytes": 10.0}, [folder / "report.md"]) if last == 75 else None
    tracker.end()
"""


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_without_a_key_or_a_server_they_keep_files(name, tmp_path):
    pytest.importorskip(name)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "TRACKIO"))}
    there = {"HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", OFFLINE, name, str(tmp_path)]
    done = subprocess.run(command, env={**kept, **there}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = list(tmp_path.glob("**/*.wandb" if name == "wandb" else "**/project*.db"))
    assert found and ("offline" in done.stderr) == (name == "wandb")
