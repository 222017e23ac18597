"""`kdcompress compare`: methods x seeds on one teacher."""

import json
import os
import statistics
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from kdcompress.cli.main import main
from kdcompress.pipelines.gains import interval, summary
from kdcompress.pipelines.sweep import choose
from kdcompress.pipelines.workers import elsewhere, executor
from kdcompress.recipe import load_recipe

SMALL = (
    "fashion-mnist-demo",
    "data.train_images=300",
    "teacher.model=resnet8",
    "teacher.train.images=256",
    "train.images=128",
    "train.precision=fp32",
)


def compare(*arguments):
    return CliRunner().invoke(main, ["compare", *SMALL, *arguments])


@pytest.fixture(scope="module")
def swept(tmp_path_factory, fashion_mnist_root):
    folder = tmp_path_factory.mktemp("sweep")
    arguments = (f"data.root={fashion_mnist_root}", "-m", "none,kd", "-o", str(folder))
    found = compare(*arguments, "--seeds", "2", "--json")
    assert found.exit_code == 0, found.stderr
    return arguments, folder, json.loads(found.stdout)


def test_every_training_is_there_and_the_summary_is_of_them(swept):
    _, folder, document = swept
    trials = document["trials"]
    assert [(t["label"], t["seed"]) for t in trials] == [("none", 0), ("kd", 0), ("none", 1), ("kd", 1)]
    rows = {row["label"]: row for row in document["summary"]}
    scores = {label: [t["test_best"] for t in trials if t["label"] == label] for label in rows}
    for label, row in rows.items():
        assert row["test_best"] == pytest.approx(statistics.mean(scores[label]))
        assert row["test_best_sd"] == pytest.approx(statistics.stdev(scores[label]))
        assert row["images_seen"] == 128 and 0 <= row["agreement"] <= 100 and row["calibration_error"] >= 0
    assert rows["kd"]["gain"] == pytest.approx(rows["kd"]["test_best"] - rows["none"]["test_best"])
    assert rows["none"]["teacher_passes"] == 0 and rows["kd"]["teacher_passes"] == 128
    assert len(list((folder / "steps/teacher").iterdir())) == 1  # trained once, for all
    page = (folder / "compare.html").read_text()
    assert page.count("<circle") == 4 and "http" not in page.replace("http://www.w3.org", "")
    assert "| kd |" in (folder / "compare.md").read_text()


def test_a_second_call_trains_what_is_missing(swept):
    arguments, _, first = swept
    assert "to do" not in compare(*arguments, "--seeds", "2", "--dry-run").stdout
    planned = compare(*arguments, "--seeds", "3", "--dry-run").stdout
    assert planned.count("done") == 4 and planned.count("to do") == 2
    again = json.loads(compare(*arguments, "--seeds", "2", "--json").stdout)
    assert again["trials"] == first["trials"]


def trained(folder):
    """(method, seed) -> weights of every student."""
    found = {}
    for record in folder.glob("steps/student/*/step.json"):
        params = json.loads(record.read_text())["params"]
        found[(*params["method"], params["seed"])] = load_file(record.parent / "weights.safetensors")
    return found


def test_several_workers_train_the_same_weights(swept, tmp_path):
    arguments, folder, _ = swept
    found = compare(*arguments[:3], "-o", str(tmp_path), "--seeds", "1", "--workers", "2", "--json")
    assert found.exit_code == 0, found.stderr
    alone, shared = trained(folder), trained(tmp_path)
    assert set(shared) == {("none", 0), ("kd", 0)}
    for trial, weights in shared.items():  # with fewer threads sums are in another order
        assert all(torch.allclose(w.float(), alone[trial][k].float(), atol=1e-3) for k, w in weights.items())
    assert not torch.equal(alone["kd", 0]["fc.weight"], alone["none", 0]["fc.weight"])


def test_workers_do_not_outlive_a_killed_parent(ended):
    asking = "import time; from kdcompress.pipelines.workers import executor\n"
    asking += "with executor(2, None) as pool: list(pool.map(time.sleep, [600, 600]))"
    with subprocess.Popen([sys.executable, "-c", f"if __name__ == '__main__':\n  exec({asking!r})"]) as parent:
        try:
            process, workers = psutil.Process(parent.pid), []
            while len(workers) < 2 and parent.poll() is None:
                time.sleep(0.2)
                workers = [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]
            time.sleep(2)
        finally:
            parent.kill()
    assert len(workers) == 2
    gone = ended(workers)
    for worker in workers if not gone else ():
        worker.kill()
    assert gone


@pytest.mark.slow
def test_workers_of_a_dask_scheduler_share_the_trainings(tmp_path, fashion_mnist_root):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = ("--scheduler", cluster.scheduler_address)
        arguments = (f"data.root={fashion_mnist_root}", "teacher=null", "-m", "none", "-s", "1", "-o", str(tmp_path))
        found = compare(*arguments, *address, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["summary"][0]["n"] == 1 and trained(tmp_path)


def test_what_cannot_be_compared_is_said_first():
    unknown = compare("-m", "none,kdd")
    assert unknown.exit_code == 2 and "did you mean 'kd'" in unknown.stderr
    alone = compare("teacher=null", "-m", "none,kd,reviewkd", "--dry-run")
    assert alone.exit_code == 2 and "kd needs a teacher" in alone.stderr and "reviewkd needs" in alone.stderr


def test_a_scheduler_that_is_not_there_is_said_before_anything_is_trained(tmp_path, fashion_mnist_root, monkeypatch):
    """It is asked for ten seconds; here for one."""
    import distributed

    connect = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: connect(address, timeout=timeout / 10))
    address = ("--scheduler", "tcp://127.0.0.1:9", "-o", str(tmp_path))
    found = compare(f"data.root={fashion_mnist_root}", "-m", "none", *address)
    assert found.exit_code == 2 and "scheduler cannot be reached" in found.stderr
    assert not (tmp_path / "steps").exists()


def test_labels_take_the_recipes_own_options():
    recipe = load_recipe(Path("pipelines/recipes/fashion-mnist.yaml"), ("method.kd.weight=0.7",))
    assert choose(recipe, [])["kd"]["kd"]["weight"] == 0.7 and list(choose(recipe, [])) == ["none", "kd"]
    assert choose(recipe, ["reviewkd"]) == {"reviewkd": {"reviewkd": {}}}
    assert {"none", "kd", "reviewkd"} <= set(choose(recipe, ["all"]))


def test_interval_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, n 3; t(0.975, 2) = 4.303
    found = interval([1.0, 2.0, 3.0])
    assert found["gain"] == 2 and found["gain_high"] - 2 == pytest.approx(4.303 / 3**0.5)
    assert interval([1.5]) == {"gain": 1.5} and interval([]) == {}


def test_a_failed_training_is_counted_and_left_out():
    good = {"label": "kd", "seed": 0, "test_best": 90.0, "images_seen": 10, "seconds": 1.0, "teacher_passes": 10}
    good |= {"auxiliary_parameters": 0}
    row = summary([good, {"label": "kd", "seed": 1, "error": "diverged"}], ["kd"], {"kd": 91.0})[0]
    assert (row["n"], row["failed"], row["test_best"], row["published"]) == (1, 1, 90.0, 91.0)


def test_a_worker_that_dies_is_told_with_its_signal():
    with executor(2, None) as pool:
        workers = active_children()
        jobs = [pool.submit(os.abort), pool.submit(time.sleep, 3600)]
        found = [elsewhere(job.result, workers) for job in jobs]
    assert found == 2 * [{"error": "A process that trains ended with signal 6 (SIGABRT)."}]


def test_what_a_scheduler_raises_is_the_trainings_error():
    def lost():
        raise OSError("the worker is gone")

    assert elsewhere(lost, []) == {"error": "OSError: the worker is gone"}
