"""Semantic segmentation from the recipe to measured files and to what is shipped, which runs without kdcompress."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bundle_files import check_syntax, invoke, signed_again
from click.testing import CliRunner
from PIL import Image
from scene_runs import evaluate_gives_the_same, scenes_run

from kdcompress.class_maps import classes_of
from kdcompress.cli.main import main
from kdcompress.data.source import load
from kdcompress.export import formats
from kdcompress.pipelines.bundle.folder import filled
from kdcompress.pipelines.measure import load_artifact
from kdcompress.recipe import Data
from kdcompress.runner import infer_all

RECIPE = """
name: maps
task: semantic-segmentation
data: {source: fashion-mnist-scenes, size: 64, train_images: 256, augment: {flip: true, crop: 4}}
teacher:
  model: fcn/small-resnet10x2
  options: {width: 32}
  train: {epochs: 2, batch_size: 16, optimizer: adamw, lr: 0.005, precision: fp32}
student: {model: lraspp/small-resnet10x1, options: {width: 16}}
method: {kd: {temperature: 1, weight: 1, task_weight: 1}}
train: {epochs: 2, batch_size: 16, optimizer: adamw, lr: 0.005, precision: fp32}
export: {targets: [onnx-fp16, x86-vnni], calibration_images: 64, max_drop: 5, qat: null}
bench: {effort: rapid}
"""
PROGRAMS = (
    *("example.cpp", "tensorrt.cpp", "onnx.kt", "executorch.kt", "litert.kt"),
    *("executorch.swift", "litert.swift", "coreml.swift"),
)
FILES = {"teacher-fp32", "student-fp32", "student-onnx-fp16", "student-x86-vnni"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, fashion_mnist_root):
    folder = tmp_path_factory.mktemp("segmentation")
    with scenes_run(folder, RECIPE, fashion_mnist_root, 64) as done:
        yield done, folder


@pytest.fixture(scope="module")
def document(ran):
    done, _ = ran
    assert done.exit_code in (0, 1), done.stderr  # 1: int8 may be slower on so small a network
    return json.loads(done.stdout)


def test_every_file_is_scored_by_its_own_classes(ran, document, fashion_mnist_root):
    _, folder = ran
    assert document["metric"]["short"] == "mIoU" and {row["name"] for row in document["rows"]} == FILES
    for row in document["rows"]:
        assert row["parity"]["passed"], row["why"]
        assert 0 < row["score"] < 100 and 0 < row["details"]["pixel accuracy"] < 100 and row["answer_ms"] > 0
    assert [each["label"] for each in document["by_label"]][0] == "background" and len(document["by_label"]) == 11
    data = Data(source="fashion-mnist-scenes", size=64, train_images=256, root=fashion_mnist_root)
    test = load(data, "maps").test
    assert sum(each["n"] for each in document["by_label"]) == test.truth.size
    assert np.array(document["confusion"]["student"]).sum() == test.truth.size
    row = next(row for row in document["rows"] if row["name"] == "student-fp32")
    artifact = load_artifact(folder / "run" / row["file"])
    assert artifact.input.outputs[0].shape == (11, 8, 8)
    with formats.open_runner(artifact) as runner:
        (logits,) = infer_all(runner, test.images, artifact.input)
    right = 100 * (classes_of(logits, (64, 64)) == test.truth).mean()
    assert right == pytest.approx(row["details"]["pixel accuracy"])


def test_the_report_shows_classes_over_images(ran, document):
    _, folder = ran
    for picture in document["pictures"]["shown"]:
        names = [panel["name"] for panel in picture["panels"]]
        assert names == ["truth", "teacher-fp32", "student-fp32", "student-x86-vnni"]
    pages = [(folder / f"run/report.{kind}").read_text() for kind in ("html", "md")]
    assert pages[0].count("<img") == 4 * len(document["pictures"]["shown"]) > 0
    assert all("mean IoU" in page and "pixel accuracy" in page for page in pages)


@pytest.mark.slow
def test_evaluate_gives_the_same_figure(ran, document, fashion_mnist_root):
    _, folder = ran
    evaluate_gives_the_same(folder / "run", document, fashion_mnist_root)


def test_what_is_for_another_task_is_refused_before_anything_trains(ran, fashion_mnist_root):
    def refused(*overrides):
        given = ["run", "scenes.yaml", f"data.root={fashion_mnist_root}", *overrides, "-o", "no"]
        found = CliRunner().invoke(main, given)
        assert found.exit_code == 2, found.stderr
        return found.stderr

    _, folder = ran
    said = refused("student.model=resnet8", "student.options={}")
    assert "gives no class maps" in said and "lraspp/BACKBONE" in said
    said = refused("method=dkd")
    assert "cannot teach this task" in said and "skd" in said
    assert "learns the class of each pixel" in refused("data.source=fashion-mnist", "data.size=null")
    assert not (folder / "no").exists()


# What is shipped


@pytest.fixture(scope="module")
def bundled(ran, document, tmp_path_factory):
    _, folder = ran
    found = invoke("bundle", folder / "run", "--target", "student-fp32", "-o", tmp_path_factory.mktemp("b"), "--json")
    assert found.exit_code == 0, found.output
    (path,) = json.loads(found.stdout)
    return folder.joinpath(path)


def program(folder, name, *arguments):
    command = [sys.executable, str(folder / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)


def test_a_bundle_checks_itself_and_classes_an_image(bundled, tmp_path):
    checked = program(bundled, "self_check.py")
    assert checked.returncode == 0 and "100.00% of the places" in checked.stdout, checked.stdout + checked.stderr
    Image.fromarray(np.array(Image.open(bundled / "sample.png"))[:48]).save(tmp_path / "wide.png")
    shown = program(bundled, "example.py", bundled / "sample.png", tmp_path / "wide.png", "-o", tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert Image.open(tmp_path / "wide-classes.png").size == (64, 48) and "background" in shown.stdout
    expected = json.loads((bundled / "expected.json").read_text())
    assert expected["true_label"] and sum(length for _, length in expected["classes"]) == 64
    card = (bundled / "MODEL_CARD.md").read_text()
    assert "## Mean IoU" in card and "semantic segmentation" in card


@pytest.mark.parametrize("fault", ["classes", "logits"])
def test_a_bundle_that_answers_otherwise_says_so(bundled, fault, tmp_path):
    folder = shutil.copytree(bundled, tmp_path / "bundle")
    path = folder / "expected.json"
    expected = json.loads(path.read_text())
    if fault == "classes":
        expected["classes"] = [[(number + 1) % 11, length] for number, length in expected["classes"]]
    else:
        expected["logits"][0][3] += 1
    path.write_text(json.dumps(expected))
    signed_again(folder)
    checked = program(folder, "self_check.py")
    assert checked.returncode == 1 and "FAILED" in checked.stdout, checked.stdout


def test_the_programs_of_other_languages_can_be_parsed(bundled, tmp_path):
    model = json.loads((bundled / "model.json").read_text())
    for suffix in ("cpp", "kt"):
        (path,) = bundled.glob(f"*.{suffix}")
        check_syntax(path)
    maps = {**model, "outputs": [{**model["outputs"][0], "name": "classes", "shape": [1, 64, 64]}]}
    values = {"program": "segmenter", "threads": 1, "engine": "model.engine", "library": "nvinfer"}
    for described in (model, maps):
        described = {**described, "built_for": {"minimum_deployment_target": "iOS17"}}
        for name in PROGRAMS:
            path = tmp_path / name
            path.write_text(filled(name, {**values, "model": described}))
            check_syntax(path)


def test_the_program_in_cpp_enlarges_logits_as_ours_does(bundled, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    text = (bundled / "example.cpp").read_text()
    functions = text[text.index("// The class of each pixel") : text.index("void print(")]
    logits = np.random.default_rng(0).normal(size=(1, 11, 8, 8)).astype(np.float32)
    (tmp_path / "main.cpp").write_text(
        "#include <algorithm>\n#include <cstdint>\n#include <cstdio>\n#include <vector>\n"
        "constexpr int64_t kHeight = 64, kWidth = 64;\n"
        + functions
        + "int main() {\n  std::vector<float> x(11 * 64);\n"
        "  if (std::fread(x.data(), 4, x.size(), stdin) != x.size()) return 1;\n"
        "  const auto found = classes_of(x.data());\n"
        "  std::fwrite(found.data(), 1, found.size(), stdout);\n}\n"
    )
    command = [compiler, "-std=c++17", "-Wall", "-Werror", "-o", tmp_path / "main", tmp_path / "main.cpp"]
    subprocess.run(command, check=True)
    given = subprocess.run([tmp_path / "main"], input=logits.tobytes(), capture_output=True, check=True).stdout
    assert (np.frombuffer(given, np.uint8).reshape(64, 64) == classes_of(logits, (64, 64))[0]).mean() > 0.999


def test_the_program_in_javascript_enlarges_logits_as_ours_does(bundled, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js")
    logits = np.random.default_rng(0).normal(size=(1, 11, 8, 8)).astype(np.float32)
    (tmp_path / "logits.bin").write_bytes(logits.tobytes())
    shutil.copy(bundled / "segmenter.mjs", tmp_path)
    (tmp_path / "main.mjs").write_text(
        "import { classesOf } from './segmenter.mjs'\nimport { readFileSync, writeFileSync } from 'node:fs'\n"
        "const x = new Float32Array(new Uint8Array(readFileSync('logits.bin')).buffer)\n"
        "writeFileSync('classes.bin', classesOf(x, [11, 8, 8], [64, 64]))\n"
    )
    subprocess.run([node, "main.mjs"], cwd=tmp_path, check=True)
    found = np.fromfile(tmp_path / "classes.bin", np.uint8).reshape(64, 64)
    assert (found == classes_of(logits, (64, 64))[0]).mean() > 0.999


@pytest.mark.slow
def test_a_file_may_give_classes(ran, document, bundled, fashion_mnist_root):
    """The same run, whose networks are trained already: other files are made of them. The last of this module's."""
    _, folder = ran
    more = ["export.outputs=classes", "export.targets=[x86-vnni]", "-o", folder / "run", "--json"]
    done = invoke("run", folder / "scenes.yaml", f"data.root={fashion_mnist_root}", *more)
    assert done.exit_code in (0, 1), done.stderr
    before = {row["name"]: row for row in document["rows"]}
    for row in json.loads(done.stdout)["rows"]:
        assert row["parity"]["passed"], row["why"]
        off = 1 if row["precision"] == "int8" else 0.05
        assert row["score"] == pytest.approx(before[row["name"]]["score"], abs=off)
