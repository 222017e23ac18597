"""The whole main job on a small real subset, by the command a user gives."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from forked import Forked

from kdcompress.artifact import Artifact
from kdcompress.cli.main import main

SMALL = (
    "data.train_images=1500",
    "teacher.model=resnet8",
    "teacher.train.epochs=1",
    "train.epochs=1",
    "export.max_drop=100",
    "gates={}",
    "bench.effort=rapid",
)

TRIED = True  # networks are exported before their training


@pytest.fixture(scope="module")
def job(tmp_path_factory, fashion_mnist_root):
    folder = tmp_path_factory.mktemp("job") / "run"

    def run(*more):
        arguments = ["run", "fashion-mnist-demo", *SMALL, f"data.root={fashion_mnist_root}", "-o", str(folder), *more]
        return CliRunner().invoke(main, arguments)

    first = run("--json")
    assert first.exit_code == 0, first.stderr
    return run, folder, json.loads(first.stdout)


def test_every_artefact_is_measured_or_says_why_not(job):
    _, folder, document = job
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows) == {
        "teacher-fp32",
        "student-fp32",
        "student-x86-vnni",
        "student-onnx-fp16",
        "student-tensorrt-rtx",
    }
    for name, row in rows.items():
        assert Artifact.of(folder / row["file"], "", "", None).sha256 == row["sha256"]
        if name == "student-tensorrt-rtx":
            assert row["status"] in ("built, not run", "measured")
            assert row["coverage"]["conv"]["fp32"] == 0
            continue
        assert row["status"] == "measured", row["why"]
        assert row["parity"]["passed"] and 0 < row["score"] <= 100 and 0 < row["agreement"] <= 100
        assert row["latency"]["n"] >= 64 and row["latency"]["median_ms"] > 0
        assert len(row["latency"]["samples_ms"]) == row["latency"]["n"]
    int8 = rows["student-x86-vnni"]
    assert int8["coverage"]["conv"]["fp32"] == 0 and int8["coverage"]["conv"]["int8"] > 0
    assert rows["student-fp32"]["bytes"] / int8["bytes"] >= 2.5
    assert sum(map(sum, document["confusion"]["student"])) == 2_000
    each = document["by_label"]
    for score, row in (("teacher", "teacher-fp32"), ("student", "student-fp32")):
        right = sum(label["n"] * label[score] / 100 for label in each)
        assert 100 * right / 2_000 == pytest.approx(rows[row]["score"])
    assert all(list(label["files"]) == ["student-x86-vnni"] for label in each)


def test_reports_are_written(job):
    _, folder, document = job
    assert json.loads((folder / "report.json").read_text())["recipe_hash"] == document["recipe_hash"]
    text = (folder / "report.md").read_text()
    assert "student-x86-vnni" in text and "| class | n | teacher % | student % | int8 x86-vnni % |" in text
    assert "<html" in (folder / "report.html").read_text()
    assert CliRunner().invoke(main, ["report", str(folder)]).exit_code == 0


def test_again_does_nothing_and_the_effective_recipe_gives_the_same_run(job):
    run, folder, document = job
    again = json.loads(run("--json").stdout)
    assert all(step["reused"] for step in again["steps"])
    assert again["rows"] == document["rows"]
    plan = CliRunner().invoke(main, ["run", str(folder / "recipe.yaml"), "-o", str(folder), "--dry-run", "--json"])
    assert {step["state"] for step in json.loads(plan.stdout)} <= {"done", "not here"}


def test_changing_one_target_makes_that_target_alone(job):
    run, folder, _ = job
    plan = run("export.targets=[x86-vnni, tensorrt-rtx]", "--dry-run", "--json")
    states = {step["step"]: step["state"] for step in json.loads(plan.stdout)}
    assert states.pop("latency") == "to do"  # the files left are compared anew
    assert set(states.values()) <= {"done", "not here"}
    plan = run("export.calibration_images=64", "--dry-run", "--json")
    to_do = {step["step"] for step in json.loads(plan.stdout) if step["state"] == "to do"}
    assert "student-x86-vnni" in to_do and not to_do & {"teacher", "student", "student-fp32", "teacher-fp32"}


def test_files_can_be_used_by_the_other_commands(job, fashion_mnist_root):
    _, folder, document = job
    rows = {row["name"]: row for row in document["rows"]}
    files = [str(folder / rows[name]["file"]) for name in ("student-fp32", "student-x86-vnni")]
    data = ("--data", "fashion-mnist", "--root", str(fashion_mnist_root))
    found = CliRunner().invoke(main, ["evaluate", *files, *data, "--json"])
    assert [r["score"] for r in json.loads(found.stdout)] == [
        rows["student-fp32"]["score"],
        rows["student-x86-vnni"]["score"],
    ]
    engine = str(folder / rows["student-tensorrt-rtx"]["file"])
    if rows["student-tensorrt-rtx"]["status"] == "built, not run":
        missing = CliRunner().invoke(main, ["bench", engine])
        assert missing.exit_code == 3 and "No CUDA device" in missing.stderr
    for file in (*files, engine):
        assert json.loads(CliRunner().invoke(main, ["inspect", file, "--json"]).stdout)["bytes"] > 0


def test_a_gate_that_is_not_met_ends_with_1_after_the_report(job):
    run, _, _ = job
    found = run("gates.student_accuracy=99.9")
    assert found.exit_code == 1
    assert "gate student" in found.stderr and "student-x86-vnni" in found.stdout


# Real processes, killed at random moments

DRIVER = """
import torch
import kdcompress.training.engine as engine
from kdcompress.bench import timing
engine.CHECK_EVERY, engine.CHECKPOINT_SECONDS = 1, 0.0  # a checkpoint at every step
timing.EFFORTS["rapid"] = (64, 0.1)
torch.set_num_threads(1)
save = engine.save_checkpoint

def said(state, path):
    save(state, path)
    print("saved", path.parents[1].name, flush=True)

engine.save_checkpoint = said
from kdcompress.cli.main import main
main()
"""


def start(folder, root):
    """Nine iterations of a teacher, and fifty-four of a student."""
    arguments = [
        *("run", "fashion-mnist-demo", *SMALL, "export.targets=[]", f"data.root={root}", "data.train_images=640"),
        *("train.epochs=6", "method=reviewkd", "train.ema=0.9", "-o", str(folder)),
        *("train.batch_size=64", "teacher.train.batch_size=64"),
        *("teacher.model=tiny_nets:plain", "student.model=tiny_nets:plain"),
    ]
    return Forked(DRIVER, *arguments)


def weights(folder):
    found = {}
    for path in sorted(folder.glob("steps/*/*/step.json")):
        record = json.loads(path.read_text())
        if record["step"] in ("teacher", "student"):
            found[record["step"]] = record["files"]
    return found


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path, fashion_mnist_root):
    status, _, errors = start(tmp_path / "whole", fashion_mnist_root).ended()
    assert status == 0, errors
    rng, folder = random.Random(0), tmp_path / "killed"
    for training in ("teacher", "student", "student"):
        process, left = start(folder, fashion_mnist_root), rng.randint(1, 4)
        for line in process.stdout:
            left -= line.strip() == f"saved {training}"
            if not left:
                break
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        status, _, errors = process.ended()
        assert status == -signal.SIGKILL, errors
    assert not folder.joinpath("report.json").exists()  # it was stopped each time
    status, _, errors = start(folder, fashion_mnist_root).ended()
    assert status == 0, errors
    assert weights(folder) == weights(tmp_path / "whole") and set(weights(folder)) == {"teacher", "student"}


def test_a_disk_that_is_full_is_told_of_and_nothing_finished_is_lost(tmp_path, fashion_mnist_root):
    """A limit on the size of files stands for it: writing fails in the same way."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from kdcompress.cli.main import main; main(sys.argv[1:])"
    )
    arguments = [
        "run",
        "fashion-mnist-demo",
        *SMALL,
        "student.model=tiny_nets:plain",
        f"data.root={fashion_mnist_root}",
    ]
    arguments += ["data.train_images=300", "export.targets=[]"]
    status, _, errors = Forked(code, *arguments, "-o", tmp_path / "run").ended()
    assert status == 1 and "Traceback" not in errors
    assert "The step 'teacher' could not write its files" in errors and "too large" in errors
    assert not list((tmp_path / "run").glob("steps/*/*/step.json"))


@pytest.mark.slow
def test_two_processes_train_together(tmp_path, fashion_mnist_root):
    """Near the losses of one process with the same global batch: batch norms see half of it each."""
    arguments = [
        *("run", "fashion-mnist-demo", *SMALL, "export.targets=[]", f"data.root={fashion_mnist_root}"),
        *("train.precision=fp32", "teacher.train.precision=fp32", "-o"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "kdcompress"]
    for name, start in (("one", [sys.executable, "-m", "kdcompress"]), ("two", together)):
        command = [*start, *arguments, str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    for a, b in zip(one["training"], two["training"]):
        assert a["images_seen"] == b["images_seen"]
        assert b["history"][0]["loss"] == pytest.approx(a["history"][0]["loss"], rel=0.1)
