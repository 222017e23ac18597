"""A plan and a run whose latencies are those of another machine: a real sshd, with a Python that has ONNX Runtime."""

import json
import os
import shlex

import pytest
import yaml
from click.testing import CliRunner

from kdcompress.bench import timing
from kdcompress.cli.main import main
from kdcompress.pipelines.timed import probed

BUDGETS = ("--max-latency", "1s", "--max-size", "120kB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The current one; timing is long enough for a median and no longer."""
    before, found = os.getcwd(), tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(timing.EFFORTS, "rapid", (24, 0.1))
        os.chdir(found)
        yield found
        os.chdir(before)


@pytest.fixture
def device(sshd, python, brief, there):
    brief(0.1)
    probed.cache_clear()
    return f"ssh:127.0.0.1:{sshd.port}?python={python}&folder={there}"


@pytest.fixture
def plan(folder, fashion_mnist_root):
    def invoke(*more):
        recipe = ["fashion-mnist-demo", "gates={}", "data.train_images=500", f"data.root={fashion_mnist_root}"]
        recipe += ["teacher=null", "method=none", "train.epochs=1", "export.targets=[onnx-fp16,arm64-dotprod]"]
        return CliRunner().invoke(main, ["plan", *recipe, "--candidates", "resnet8x0.5", "-o", "small.yaml", *more])

    return invoke


@pytest.mark.slow
def test_the_student_that_fits_there_is_found_and_held_to_it(plan, device, there, folder):
    found = plan(*BUDGETS, "--device", device, "--json")
    assert found.exit_code == 0, found.stderr
    assert not list(there.iterdir())
    document = json.loads(found.stdout)
    assert document["device"] == device and document["proposed"] == "resnet8x0.5"
    assert document["budgets"]["target"] == ["onnx-fp16"]  # the other is for a processor that this device has not
    best = next(each for each in document["candidates"] if each["name"] == "resnet8x0.5")
    assert 0 < best["latency"]["onnx-fp16"]["ms"] < 50
    assert yaml.safe_load((folder / "small.yaml").read_text())["bench"]["device"] == device

    run = CliRunner().invoke(main, ["run", "small.yaml", "-o", "run", "--json", "export.max_drop=100"])
    assert run.exit_code == 0, run.stderr
    assert not list(there.iterdir())
    report = json.loads((folder / "run" / "report.json").read_text())
    where = device.partition("?")[0]
    assert report["device"]["name"] == where and "torch" not in report["device"]["machine"]["packages"]
    rows = {row["name"]: row for row in report["rows"]}
    for name in ("student-fp32", "student-onnx-fp16"):
        assert rows[name]["latency"]["n"] >= 24 and rows[name]["device_parity"]["passed"]
    for_arm = rows["student-arm64-dotprod"]
    assert for_arm["latency"] is None and for_arm["why"].startswith(f"not timed on {where}: This artefact is made for")
    gate = next(gate for gate in report["gates"] if gate["name"] == "budget_latency")
    assert gate["met"] and gate["value"] == rows["student-onnx-fp16"]["latency"]["median_ms"]
    for written in ("report.md", "report.html"):
        assert f"Latencies are those of {where} (" in (folder / "run" / written).read_text()
    assert report["predictions"][0]["name"] == "student-onnx-fp16"


def test_budgets_that_the_device_cannot_be_asked_for_end_before_anything_is_built(plan, device, folder):
    def refused(code, words, *more):
        found = plan(*BUDGETS, *more, "-o", "none.yaml", "--folder", "none")
        assert found.exit_code == code and words in found.stderr, found.stderr
        assert not (folder / "none").exists() and not (folder / "none.yaml").exists()

    refused(3, "it is made for another processor", "--device", device, "--target", "arm64-dotprod")
    refused(3, "cannot be reached over ssh", "--device", "ssh:127.0.0.1:1")
    refused(2, "allowed: local, adb:ADDRESS, ssh:ADDRESS", "--device", "browser")
    refused(2, "allowed: local, adb:ADDRESS, ssh:ADDRESS", "--device", "emulated-arm64")
    refused(2, "did you mean 'ssh'?", "--device", "sshd:x")


def test_a_run_asks_for_its_device_before_it_trains(folder, fashion_mnist_root):
    asked = (
        f"run fashion-mnist-demo data.root={shlex.quote(str(fashion_mnist_root))} bench.device=ssh:127.0.0.1:1 -o far"
    )
    found = CliRunner().invoke(main, shlex.split(asked))
    assert found.exit_code == 3 and "cannot be reached over ssh" in found.stderr and not (folder / "far").exists()
