"""Two classes of unequal size from the recipe to the bundle: another figure, a threshold, balanced trainings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from bundle_files import GRAMMARS, check_syntax, ort_stub
from click.testing import CliRunner
from PIL import Image
from quick_runs import quick_run
from sklearn.metrics import f1_score

from kdcompress.cli.main import main
from kdcompress.data.source import load
from kdcompress.export.formats import open_runner
from kdcompress.intervals import sample
from kdcompress.pipelines.blind import not_above
from kdcompress.pipelines.compress import Compression
from kdcompress.pipelines.measure import load_artifact
from kdcompress.recipe import load_recipe
from kdcompress.runner import infer_all
from kdcompress.tasks import tasks

LABELS = ("ok", "scratch")
RECIPE = """
name: inspection
metric: f1
threshold: validation
data: {source: image-folder, root: parts}
teacher: {model: resnet8, train: {images: 480, batch_size: 32, precision: fp32, lr: 0.05, balance: weights}}
student: {model: resnet8}
method: kd
train: {images: 480, batch_size: 32, precision: fp32, lr: 0.05, balance: sampling}
export: {targets: [x86-vnni], calibration_images: 64, max_drop: 100, qat: null}
bench: {effort: rapid}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Grey noise, with a faint line where it is scratched: 4 of 5 are not."""
    folder, random = tmp_path_factory.mktemp("inspection"), np.random.default_rng(0)
    for split, count in (("train", 300), ("val", 100), ("test", 100)):
        for number in range(count):
            pixels = random.integers(0, 120, (16, 16))
            label = LABELS[number % 5 == 0]
            if label == "scratch":
                pixels[random.integers(0, 16)] += 60
            path = folder / "parts" / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "inspection.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def ran(place):
    with quick_run(place, "inspection.yaml") as done:
        assert done.exit_code == 0, done.stderr
        yield json.loads(done.stdout), place


def margins(folder, row):
    artifact = load_artifact(folder / "run" / row["file"])
    source = load(load_recipe(folder / "inspection.yaml").data)
    with open_runner(artifact) as runner:
        (logits,) = infer_all(runner, source.test.images, artifact.input)
    return artifact, logits[:, 1].astype(np.float64) - logits[:, 0], source.test.truth


def test_files_ship_with_the_threshold_and_are_scored_by_it(ran, monkeypatch):
    document, place = ran
    monkeypatch.chdir(place)
    assert document["metric"]["name"] == "macro F1" and document["confusion"]["labels"] == list(LABELS)
    for row in document["rows"]:
        assert row["parity"]["passed"], row["parity"]
        artifact, margin, truth = margins(place, row)
        chosen = document["thresholds"][row["role"]]
        assert artifact.input.threshold == chosen["share"] and chosen["images"] == 100
        record = json.loads((place / "run" / f"{row['file']}.json").read_text())
        assert record["input"]["threshold"] == chosen["share"] and chosen["score"] >= chosen["at_half"] > 0
        said = margin > np.log(chosen["share"] / (1 - chosen["share"]))
        assert row["score"] == pytest.approx(100 * f1_score(truth, said, average="macro"))
        assert row["score_low"] < row["score"] < row["score_high"] or row["score"] == 100
    shares = {role: found["share"] for role, found in document["thresholds"].items()}
    assert set(shares) == {"teacher", "student"}


def test_a_file_alone_is_evaluated_with_it(ran, monkeypatch):
    document, place = ran
    monkeypatch.chdir(place)
    row = document["rows"][1]
    asked = ["evaluate", f"run/{row['file']}", "--data", "image-folder", "--root", "parts", "--json"]
    (found,) = json.loads(CliRunner().invoke(main, [*asked, "--metric", "f1"]).stdout)
    assert found["score"] == pytest.approx(row["score"]) and found["metric"]["short"] == "F1"
    assert found["threshold"] == document["thresholds"]["student"]["share"]
    (plain,) = json.loads(CliRunner().invoke(main, asked).stdout)
    right = sum(document["confusion"]["student"][k][k] for k in (0, 1))
    assert plain["score"] == pytest.approx(right) and plain["metric"]["short"] == "acc"  # of 100 images
    wrong = CliRunner().invoke(main, [*asked, "--metric", "f2"])
    assert wrong.exit_code == 2 and "auroc, balanced-accuracy, f1" in wrong.stderr


def test_reports_tell_of_each_class_and_of_the_threshold(ran):
    document, place = ran
    share = f"{document['thresholds']['student']['share']:g}"
    each = document["by_label"][1]
    by = each["by"]["student"]
    assert set(each["by"]) >= {"teacher", "student"} and each["n"] == 20
    matrix = np.array(document["confusion"]["student"])
    assert by["answered"] == matrix[:, 1].sum() and by["recall"] == pytest.approx(100 * matrix[1, 1] / 20)
    assert set(document["calibration"]["files"]) == {row["name"] for row in document["rows"]}
    page, text = ((place / "run" / f"report.{kind}").read_text() for kind in ("html", "md"))
    for words in (page, text):
        assert "Precision and recall" in words and "Calibration" in words and f"above {share}" in words
    assert 'aria-label="Reliability"' in page and "Expected calibration error" in text
    shown = CliRunner().invoke(main, ["report", str(place / "run")]).stdout
    assert "Precision / recall % of the student: " in shown and "Threshold of the student's files: 'scratch'" in shown


def test_trainings_without_it_are_the_same_and_weights_are_chosen_by_the_figure(ran, monkeypatch):
    _, place = ran
    monkeypatch.chdir(place)
    text = yaml.safe_load(RECIPE)

    def states(**changes):
        (place / "changed.yaml").write_text(yaml.safe_dump({**text, **changes}))
        found = Compression(load_recipe(place / "changed.yaml"), place / "run").states()
        return {str(name): state for name, state in found.items()}

    assert set(states().values()) == {"done"}
    assert states(threshold="argmax")["student"] == "done" != states(threshold="argmax")["student-fp32"]
    assert states(metric="accuracy")["student"] == states(metric="auroc")["student"] == "to do"
    assert states(train={**text["train"], "balance": "none"})["student"] == "to do"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["metric=f2"], "no metric named 'f2'"),
        (["task=multi-label", "metric=f1"], "judged by one figure, mean average precision"),
        (["data.source=fashion-mnist", "data.root=null"], "A threshold decides between two classes"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_done(ran, monkeypatch, changes, words, fashion_mnist_root):
    _, place = ran
    monkeypatch.chdir(place)
    monkeypatch.setenv("KDCOMPRESS_DATA", str(fashion_mnist_root))
    found = CliRunner().invoke(main, ["run", "inspection.yaml", *changes, "--dry-run", "-o", "other"])
    assert found.exit_code == 2 and words in " ".join(found.stderr.split()), found.stderr


@pytest.fixture(scope="module")
def bundle(ran):
    _, place = ran
    found = CliRunner().invoke(main, ["bundle", str(place / "run"), "--target", "student-fp32", "--json"])
    assert found.exit_code == 0, found.output
    return Path(json.loads(found.stdout)[0])


def test_a_bundle_decides_by_it_in_python(bundle, ran):
    model, share = json.loads((bundle / "model.json").read_text()), ran[0]["thresholds"]["student"]["share"]
    assert model["threshold"]["share"] == share and model["threshold"]["label"] == "scratch"
    checked = subprocess.run([sys.executable, bundle / "self_check.py"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    code = (
        "import numpy as np; from classifier import Classifier; c = Classifier(); m = c.model['threshold']['margin']\n"
        "print([c.said(np.array([1.0, 1 + m + d])) for d in (-0.01, 0.01)], c.shares(np.array([[0.0, m]]))[0, 1])"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=bundle, capture_output=True, text=True)
    assert done.stdout.split("] ")[0] == "['ok', 'scratch'", done.stderr
    assert float(done.stdout.split("] ")[1]) == pytest.approx(share, abs=1e-6)
    assert f"scratch where its share is above {share}" in (bundle / "MODEL_CARD.md").read_text()
    assert "Macro F1" in (bundle / "MODEL_CARD.md").read_text()


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_a_bundle_decides_by_it_in_javascript(bundle, tmp_path):
    program = tmp_path / "run.mjs"
    program.write_text(
        f"import {{ answer }} from '{bundle}/classifier.mjs'\nimport fs from 'node:fs'\n"
        f"const model = JSON.parse(fs.readFileSync('{bundle}/model.json'))\nconst m = model.threshold.margin\n"
        "console.log(answer([1, 1 + m - 0.01], model), answer([1, 1 + m + 0.01], model))\n"
    )
    done = subprocess.run(["node", program], capture_output=True, text=True)
    assert done.stdout == "ok scratch\n", done.stderr
    script = (bundle / "index.html").read_text().split('<script type="module">')[1].split("</script>")[0]
    (tmp_path / "page.mjs").write_text(script)
    assert "answer(logits, model)" in script
    assert subprocess.run(["node", "--check", tmp_path / "page.mjs"], capture_output=True).returncode == 0


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_a_bundle_decides_by_it_in_cpp(bundle, tmp_path):
    (tmp_path / "onnxruntime_cxx_api.h").write_text(ort_stub((1, 2)))
    command = ["g++", "-std=c++17", "-I", tmp_path, bundle / "example.cpp", "-o", tmp_path / "example"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    shutil.copy(bundle / "sample.bin", tmp_path)
    margin = json.loads((bundle / "model.json").read_text())["threshold"]["margin"]
    for more, label in ((-0.01, "ok"), (0.01, "scratch")):
        np.array([1, 1 + margin + more], np.float32).tofile(tmp_path / "logits.bin")
        done = subprocess.run([tmp_path / "example"], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == f"answer: {label}", done.stderr


def test_what_is_not_compiled_here_is_parsed(bundle):
    sources = [path for path in bundle.iterdir() if path.suffix in GRAMMARS]
    assert {path.suffix for path in sources} == {".cpp", ".kt"}
    for path in sources:
        check_syntax(path)
        assert path.suffix == ".cpp" or "fun answer(logits: FloatArray): String" in path.read_text()


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy"])
def test_a_score_that_may_be_chance_is_told_with_both_numbers(metric):
    task, truth = tasks["classification"].judging(metric), np.array([0] * 69 + [1] * 31)
    blind = task.blind(truth, LABELS)
    never = sample(task, blind.answers, truth, blind.score)

    def judged(right):
        """So many of the scratched parts are found, and three of the others taken for one."""
        said = np.zeros(100, np.int32)
        said[:3], said[69 : 69 + right] = 1, 1
        return sample(task, said, truth, float(task.resampled(said, truth, np.ones((1, 100), int))[0]))

    told = not_above(judged(8), never, blind.what) if metric == "accuracy" else not_above(judged(2), never, blind.what)
    assert told.startswith("is not shown to be better than always answering 'ok': "), told
    assert ("74.0 % against 69.0 %" if metric == "accuracy" else "against 50.0 %") in told and "100 images" in told
    assert not_above(judged(30), never, blind.what) == ""
    assert not_above(never, never, blind.what) == ""  # told as no better
