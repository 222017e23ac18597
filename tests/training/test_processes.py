"""Several processes on one machine (gloo on the CPU): they train what one process would have trained."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import step_of_each_method
import torch
import train_in_processes
from PIL import Image
from test_engine import source

from kdcompress.distributed import check_launch
from kdcompress.errors import UsageError

ROOT = Path(__file__).parents[2]
# Restarted workers would find the addresses of those before them in the store that torchrun shares with them.
RESTARTED = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
ENVIRONMENT = {**RESTARTED, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*arguments, limit=900, restarts=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max-restarts", str(restarts), *map(str, arguments)]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What each of two processes found."""
    path = tmp_path_factory.mktemp("steps") / "found"
    done = torchrun(step_of_each_method.__file__, path)
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{path}-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", step_of_each_method.CASES)
def test_two_processes_take_the_step_of_one_or_say_why_not(case, of_two):
    first, second = (found[case] for found in of_two)
    if isinstance(first, str):
        assert "one process" in first
        return
    one = step_of_each_method.steps(*step_of_each_method.CASES[case], unlabelled="unlabelled" in case)
    assert set(one) == set(first) == set(second)
    for name, value in one.items():
        step, _, what = name.partition(": ")
        alike = [v for n, v in one.items() if n.startswith(f"{step}: gradient")] if "gradient" in what else []
        atol = 1e-5 * max([float(gradient.abs().max()) for gradient in alike], default=1.0)
        for found in (first, second):
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=atol, msg=partial("{}: {}".format, name))


def test_a_launch_of_several_that_came_to_one_is_refused(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    check_launch()
    with monkeypatch.context() as mpi, pytest.raises(UsageError, match="PMI_SIZE=2"):
        mpi.setenv("PMI_SIZE", "2")
        check_launch()
    with monkeypatch.context() as one:  # accelerate launch --num_processes 1
        one.setenv("ACCELERATE_MIXED_PRECISION", "no")
        check_launch()


@pytest.fixture
def recipe(tmp_path):
    """Of two small trainings."""
    data = source()
    for number, (image, label) in enumerate(zip(data.train.images, data.train.truth)):
        path = tmp_path / "images" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    train = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
    content = {
        "name": "small",
        "data": {"source": "image-folder", "root": str(tmp_path / "images"), "size": 28},
        "teacher": {"model": "resnet14", "train": train},
        "student": {"model": "resnet8"},
        "train": train,
        "method": "dist",
        "bench": {"effort": "rapid"},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(content))
    return tmp_path / "small.yaml"


@pytest.mark.slow
def test_a_run_in_two_processes_is_one_run(recipe, tmp_path):
    run = ("-m", "kdcompress", "run", recipe, "-o", tmp_path / "run", "--json")
    first, again = torchrun(*run), torchrun(*run)
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    document, second = json.loads(first.stdout), json.loads(again.stdout)
    assert [t["role"] for t in document["training"]] == ["teacher", "student"]
    assert all(row["status"] == "measured" for row in document["rows"])
    seen = document["training"][1]
    assert seen["images_seen"] == seen["history"][-1]["step"] * 32 and seen["teacher_passes"] == seen["images_seen"]
    assert all(step["reused"] for step in second["steps"])
    assert first.stderr.count("student: done in") == 1
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.mark.slow
def test_accelerate_launch_on_the_cpu_says_that_it_started_one_process(recipe, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launch, "-m", "kdcompress", "run", str(recipe), "-o", str(tmp_path / "run")]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode and "asked for several processes and started one" in done.stderr, done.stderr
    assert "torchrun --nproc_per_node 2" in done.stderr and not (tmp_path / "run").exists()


def jobs(folder, asked, **rest):
    return torchrun(train_in_processes.__file__, folder, json.dumps(asked), **rest)


def furthest(a, b):
    return max(float((value.float() - b[name].float()).abs().max()) for name, value in a.items())


CURVES = {name: {"lr": 0.005} for name in ("none", "kd", "reviewkd", "dist", "rkd", "crd")}
CURVES["rkd"]["images"] = 64  # two steps: its weights of 25 and 50 enlarge rounding fastest


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    asked = {name: {"method": name, "sync_batch_norm": True, **options} for name, options in CURVES.items()}
    done = jobs(folder, asked)
    assert done.returncode == 0, done.stderr
    return {name: torch.load(folder / name / "result.pt") for name in CURVES}


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_two_processes_have_the_curve_and_the_weights_of_one(name, trainings, tmp_path):
    """As near as one process is to itself when it sums in another order: training enlarges what rounding began."""
    found = trainings[name]
    (tmp_path / "same").mkdir()
    (tmp_path / "order").mkdir()
    one = train_in_processes.trained(tmp_path / "same", name, **CURVES[name])
    other = train_in_processes.trained(tmp_path / "order", name, **CURVES[name], channels_last=False)
    assert [h["step"] for h in found["history"]] == [h["step"] for h in one.history]
    for mine, theirs, reordered in zip(found["history"], one.history, other.history):
        assert set(mine["terms"]) == set(theirs["terms"])
        for term, value in theirs["terms"].items():
            rounding = abs(reordered["terms"][term] - value)
            assert mine["terms"][term] == pytest.approx(value, rel=2e-3, abs=1e-4 + 5 * rounding)
    assert furthest(found["weights"], one.last_weights) < 5 * furthest(other.last_weights, one.last_weights) + 1e-4


@pytest.mark.slow
def test_a_killed_process_ends_the_training_and_it_goes_on_from_the_checkpoint(tmp_path):
    whole, parts = {"whole": {"method": "reviewkd"}}, {"parts": {"method": "reviewkd", "kill_at": 9}}
    assert jobs(tmp_path, whole).returncode == 0
    killed = jobs(tmp_path, parts)
    assert killed.returncode and "SIGKILL" in killed.stderr
    assert (tmp_path / "parts/checkpoint.pt").is_file() and not (tmp_path / "parts/result.pt").exists()
    assert jobs(tmp_path, parts).returncode == 0
    first, second = (torch.load(tmp_path / name / "result.pt") for name in ("whole", "parts"))
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())


@pytest.mark.slow
def test_the_process_that_is_left_says_so_and_ends(tmp_path):
    """Without a launcher that ends it, as on another machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    asked = json.dumps({"parts": {"method": "kd", "kill_at": 5}})
    command = [sys.executable, train_in_processes.__file__, str(tmp_path), asked]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **ENVIRONMENT, **meeting, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = started[0].communicate(timeout=600)[1]
    assert started[0].returncode == 1 and started[1].wait(120) == -signal.SIGKILL
    assert "Another process of the training ended" in said and "goes on from the last checkpoint" in said


@pytest.mark.slow
def test_torchrun_starts_it_again_by_itself(tmp_path):
    asked = {"whole": {"method": "crd"}, "parts": {"method": "crd", "kill_at": 9}}
    done = jobs(tmp_path, asked, restarts=1)
    assert done.returncode == 0 and (tmp_path / "parts/killed").exists(), done.stderr
    first, second = (torch.load(tmp_path / name / "result.pt") for name in ("whole", "parts"))
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
