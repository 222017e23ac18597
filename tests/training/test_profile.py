"""Where the time of a training goes: the sections that are always timed, and `kdcompress run --profile`."""

import json
import time

import pytest
from click.testing import CliRunner

from kdcompress.cli.main import main
from kdcompress.data.source import load
from kdcompress.models.build import build
from kdcompress.recipe import Augment, Data, Train
from kdcompress.training.distillation import Distillation, Member
from kdcompress.training.engine import train
from kdcompress.training.profile import STEP, TRACING, Clock, outside_step_percent, shares


def test_each_moment_is_charged_to_the_innermost_section():
    seconds = {}
    begun = time.perf_counter()
    clock = Clock(seconds)
    with clock.section("forward"):
        time.sleep(0.02)
        with clock.section("teacher"):
            time.sleep(0.04)
    time.sleep(0.01)
    with clock.section("data"):
        time.sleep(0.03)
    passed = time.perf_counter() - begun
    assert 0.1 <= sum(seconds.values()) <= passed
    assert seconds["forward"] >= 0.02 and seconds["teacher"] >= 0.04 and seconds["other"] >= 0.01


def test_what_is_outside_the_step():
    seconds = {"data": 1.0, "forward": 5.0, "backward": 13.0, "logging": 0.5, "other": 0.5, TRACING: 100.0}
    assert outside_step_percent(seconds) == 10.0
    assert {row["section"]: row["percent"] for row in shares(seconds) if row["in_step"]} == {
        "forward": 25.0,
        "backward": 65.0,
    }


@pytest.fixture(scope="module")
def data(fashion_mnist_root):
    return load(Data(source="fashion-mnist", root=fashion_mnist_root, train_images=320))


def distillation(data):
    import torch

    torch.manual_seed(0)
    student, teacher = (Member(build(name, 10, 1), data.mean, data.std) for name in ("resnet8", "resnet14"))
    example = torch.from_numpy(data.train.images[:2]).permute(0, 3, 1, 2)
    return Distillation(student, teacher, "kd", example)


def test_a_training_records_its_sections_and_the_profile_changes_no_weight(data, tmp_path):
    options = Train(epochs=1, batch_size=32, precision="fp32", teacher_cache="off")  # the teacher takes its time
    results = {}
    for name, profile in (("plain", None), ("profiled", tmp_path / "profile")):
        (tmp_path / name).mkdir()
        results[name] = train(distillation(data), data, options, Augment(crop=2), 0, tmp_path / name, profile=profile)
    plain, profiled = results["plain"], results["profiled"]
    assert all(plain.last_weights[k].equal(v) for k, v in profiled.last_weights.items())
    assert sum(plain.sections.values()) == pytest.approx(plain.seconds, rel=0.1)
    assert {"data", "forward", "backward", "optimizer", "evaluation", "checkpoints"} <= set(plain.sections)
    assert 0 < plain.outside_step_percent < 100
    assert {"teacher", "student", "losses", TRACING} <= set(profiled.sections) and "forward" not in profiled.sections
    document = json.loads((tmp_path / "profile/profile.json").read_text())
    assert sum(row["percent"] for row in document["sections"]) == pytest.approx(100, abs=0.1)
    assert {row["section"] for row in document["sections"] if row["in_step"]} <= set(STEP)
    trace = json.loads((tmp_path / "profile/trace.json").read_text())["traceEvents"]
    ranges = [event["name"] for event in trace if event.get("cat") == "user_annotation"]
    assert {n: ranges.count(n) for n in ("teacher", "student", "backward")} == dict.fromkeys(
        ("teacher", "student", "backward"), 5
    )
    assert any("convolution" in event["name"] for event in trace)
    assert "convolution" in (tmp_path / "profile/profile.md").read_text()


def test_a_training_of_one_step_has_no_trace(data, tmp_path):
    options = Train(images=32, batch_size=32, precision="fp32")
    found = train(distillation(data), data, options, Augment(), 0, tmp_path, profile=tmp_path / "profile")
    assert TRACING not in found.sections and found.sections["backward"] > 0
    assert not (tmp_path / "profile/trace.json").exists()
    assert json.loads((tmp_path / "profile/profile.json").read_text())["images"] == 32


@pytest.mark.usefixtures("by_size")
def test_run_with_profile(tmp_path, fashion_mnist_root):
    arguments = [
        *("run", "fashion-mnist-demo", f"data.root={fashion_mnist_root}", "data.train_images=640", "gates={}"),
        *("teacher.model=resnet8", "teacher.train.epochs=1", "train.epochs=2", "export.targets=[]"),
        *("export.max_drop=100", "-o", str(tmp_path / "run"), "--profile"),
    ]
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert found.exit_code == 0, found.stderr
    student = json.loads(found.stdout)["training"][1]
    assert "Outside the step" in found.stderr and "| teacher |" in found.stderr
    assert f"{student['outside_step_percent']:.1f} %" in found.stderr
    assert {path.name for path in (tmp_path / "run/profile").glob("[!.]*")} == {
        "trace.json",
        "profile.json",
        "profile.md",
    }
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2 and "--force student" in again.stderr
