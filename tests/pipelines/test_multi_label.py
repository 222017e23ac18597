"""A second task from the recipe to the bundle: sets of labels."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from quick_runs import quick_run

from kdcompress.cli.main import main

COLOURS = ("red", "green", "blue")
RECIPE = """
name: sets
task: multi-label
data: {source: image-labels, root: photos, size: 16}
teacher: {model: resnet8, train: {images: 6000, batch_size: 64, precision: fp32, lr: 0.05}}
student: {model: resnet8}
method: kd
train: {images: 6000, batch_size: 64, precision: fp32, lr: 0.05}
export: {targets: [onnx-fp16, x86-vnni], calibration_images: 64, max_drop: 5}
bench: {effort: rapid}
gates: {student: 80}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Squares of up to three colours at random places."""
    folder, random = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    lines = ["file,split,red,green,blue"]
    for number in range(1200):
        pixels, there = random.integers(0, 90, (16, 16, 3)), random.integers(0, 2, 3)
        for colour in np.flatnonzero(there):
            row, column = random.integers(0, 12, 2)
            pixels[row : row + 4, column : column + 4, colour] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"photos/{number:04}.png")
        split = "train" if number < 800 else "val" if number < 1000 else "test"
        lines.append(f"{number:04}.png,{split},{','.join(map(str, there))}")
    (folder / "photos/labels.csv").write_text("\n".join(lines))
    (folder / "sets.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def ran(place):
    with quick_run(place, "sets.yaml") as done:
        yield done, place


def test_every_file_is_scored_by_its_figure(ran):
    done, place = ran
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["metric"]["name"] == "mean average precision" and document["metric"]["short"] == "mAP"
    rows = {row["name"]: row for row in document["rows"]}
    assert set(rows) == {"teacher-fp32", "student-fp32", "student-onnx-fp16", "student-x86-vnni"}
    for row in rows.values():
        assert row["status"] == "measured" and row["parity"]["passed"], row["why"]
        assert 80 < row["score"] <= 100 and 80 < row["details"]["F1 over all labels"] <= 100 and row["agreement"] > 70
    (gate,) = document["gates"]
    assert gate["interval"].pop("images") == 200 and 80 < gate["interval"]["low"] <= gate["value"]
    assert gate == {
        "name": "student",
        "limit": 80.0,
        "value": rows["student-fp32"]["score"],
        "met": True,
        "interval": {"low": gate["interval"]["low"], "high": gate["interval"]["high"]},
    }
    assert document["confusion"] is None
    assert [each["label"] for each in document["by_label"]] == list(COLOURS)
    int8 = np.mean([each["files"]["student-x86-vnni"] for each in document["by_label"]])
    assert int8 == pytest.approx(rows["student-x86-vnni"]["score"])


def test_its_report_speaks_of_that_figure_and_of_each_label(ran):
    done, place = ran
    for page in ((place / "run/report.md").read_text(), (place / "run/report.html").read_text()):
        words = page.casefold()
        assert "mean average precision" in words and "accuracy" not in words
        assert all(colour in words for colour in COLOURS) and "f1 over all labels" in words
    shown = CliRunner().invoke(main, ["report", str(place / "run")])
    assert "mAP %" in shown.stdout or "mean average precision %" in shown.stdout


def test_a_file_is_evaluated_and_the_truth_of_another_task_refused(ran, monkeypatch, fashion_mnist_root):
    done, place = ran
    monkeypatch.chdir(place)
    row = json.loads(done.stdout)["rows"][1]
    asked = ["evaluate", f"run/{row['file']}", "--data", "image-labels", "--root", "photos", "--json"]
    found = CliRunner().invoke(main, asked)
    assert found.exit_code == 0, found.stderr
    (result,) = json.loads(found.stdout)
    assert result["score"] == pytest.approx(row["score"]) and result["metric"]["short"] == "mAP"
    wrong = CliRunner().invoke(main, ["run", "sets.yaml", "task=classification", "--dry-run"])
    assert wrong.exit_code == 2 and "one label per image" in wrong.stderr and "task: multi-label" in wrong.stderr
    for override, words in (("task=multilabel", "did you mean 'multi-label'"), ("method=dkd", "of one class")):
        wrong = CliRunner().invoke(main, ["run", "sets.yaml", override, "--dry-run"])
        assert wrong.exit_code == 2 and words in wrong.stderr, wrong.stderr


def test_its_bundle_checks_itself_and_names_the_labels(ran):
    done, place = ran
    found = CliRunner().invoke(main, ["bundle", str(place / "run"), "--target", "x86-vnni"])
    assert found.exit_code == 0, found.stderr
    folder = found.stdout.strip()
    checked = subprocess.run([sys.executable, f"{folder}/self_check.py"], capture_output=True, text=True)
    assert checked.returncode == 0 and "OK" in checked.stdout, checked.stdout + checked.stderr
    with open(f"{folder}/expected.json") as file:
        expected = json.load(file)
    assert expected["label"] == expected["true_label"] != ""
    with open(f"{folder}/MODEL_CARD.md") as file:
        card = file.read().casefold()
    assert "mean average precision" in card and all(colour in card for colour in COLOURS)


def test_a_plan_a_sweep_and_a_dry_run_take_it_too(ran, monkeypatch):
    done, place = ran
    monkeypatch.chdir(place)
    again = CliRunner().invoke(main, ["run", "sets.yaml", "-o", "run", "--dry-run"])
    assert again.exit_code == 0 and "to do" not in again.stdout
    short = ["teacher.train.images=64", "train.images=64", "-m", "none,kd", "--seeds", "1", "-o", "swept", "--json"]
    swept = CliRunner().invoke(main, ["compare", "sets.yaml", *short])
    assert swept.exit_code == 0, swept.stderr
    assert all(0 < trial["test_best"] <= 100 for trial in json.loads(swept.stdout)["trials"])
