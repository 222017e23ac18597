"""Runs of Mask R-CNN on scenes, and its bundle, as its receiver would use it: each export takes a while."""

import json
import subprocess
import sys

import pytest
from bundle_files import bundler, check_syntax, invoke, rows_of
from scene_runs import scenes_run

pytestmark = pytest.mark.slow
TEACHER = (
    "teacher={model: maskrcnn/small-resnet10x1, train: {epochs: 1, batch_size: 16}, "
    "options: {width: 16, levels: 4, hidden: 16, proposals: 32, samples: 16, depth: 1, found: 20}}"
)
PROTOTYPES = "student={model: yolact/small-resnet10x1, options: {width: 8, levels: 4, finest: 4, depth: 1}}"
RECIPE = """
name: scenes
task: instance-segmentation
data: {source: fashion-mnist-scenes, size: 64, train_images: 48, augment: {flip: true, crop: 4}}
student:
  model: maskrcnn/small-resnet10x1
  options: {width: 8, levels: 4, hidden: 16, proposals: 32, samples: 16, depth: 1, found: 20}
method: none
train: {epochs: 1, batch_size: 16, optimizer: adamw, lr: 0.002, precision: fp32}
export: {targets: [openvino-fp32], max_drop: 100}
bench: {effort: rapid}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory, fashion_mnist_root):
    folder = tmp_path_factory.mktemp("mask-rcnn")
    with scenes_run(folder, RECIPE, fashion_mnist_root, 16) as done:
        yield done, folder / "run"


@pytest.fixture(scope="module")
def bundle(ran, tmp_path_factory):
    rows = rows_of(ran[1])
    return bundler(ran[1], rows, tmp_path_factory.mktemp, lambda target: rows[target]["status"] == "skipped")


def test_every_file_is_scored_by_its_own_masks(ran):
    done, folder = ran
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    rows = {row["name"]: row for row in document["rows"] if row["status"] != "skipped"}
    assert "student-fp32" in rows
    for row in rows.values():
        assert row["parity"]["passed"], row["why"]
        assert 0 <= row["score"] <= 100 and "box AP" in row["details"]
    page = (folder / "report.html").read_text()
    assert page.count("<img") >= 2 * len(document["pictures"]["shown"]) > 0 and "mask AP" in page


def test_evaluate_gives_the_same_figure(ran, fashion_mnist_root):
    rows = {row["name"]: row for row in json.loads(ran[0].stdout)["rows"]}
    source = ["--data", "fashion-mnist-scenes", "--root", str(fashion_mnist_root), "--size", "64"]
    found = invoke("evaluate", ran[1] / rows["student-fp32"]["file"], *source, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)[0]["score"] == pytest.approx(rows["student-fp32"]["score"])


def test_another_task_is_refused_before_anything_trains(ran, fashion_mnist_root):
    asked = "run", ran[1].parent / "scenes.yaml", f"data.root={fashion_mnist_root}", "-o", "no"
    found = invoke(*asked, "task=detection")
    assert found.exit_code == 2 and "gives no detections" in found.stderr, found.stderr


def test_what_cannot_be_is_refused_before_anything_trains(ran, fashion_mnist_root):
    asked = "run", ran[1].parent / "scenes.yaml", f"data.root={fashion_mnist_root}", "-o", "no"
    found = invoke(*asked, "export.targets=[mnn-fp32]")
    assert found.exit_code == 2 and "second stage" in found.stderr and "yolact/BACKBONE" in found.stderr
    found = invoke(*asked, TEACHER, PROTOTYPES, "method=kd")
    assert found.exit_code == 2 and "different places" in found.stderr, found.stderr


def test_a_teacher_teaches_a_student_of_prototypes(ran, fashion_mnist_root, tmp_path):
    asked = "run", ran[1].parent / "scenes.yaml", f"data.root={fashion_mnist_root}", "-o", tmp_path / "run"
    found = invoke(*asked, TEACHER, PROTOTYPES, "method=reviewkd", "export.targets=[]", "--json")
    assert found.exit_code == 0, found.stderr
    rows = {row["name"]: row for row in json.loads(found.stdout)["rows"]}
    assert rows["student-fp32"]["agreement"] is not None
    assert all(rows[name]["parity"]["passed"] for name in ("teacher-fp32", "student-fp32"))


@pytest.mark.parametrize("target", ["student-fp32", "openvino-fp32"])
def test_it_checks_itself_and_draws_masks_without_kdcompress(target, bundle, bare, tmp_path):
    folder = bundle(target)
    done = bare(folder / "self_check.py", "kdcompress", "PIL", "torch", "torchvision")
    assert done.returncode == 0 and "masks are found here" in done.stdout, done.stdout + done.stderr
    assert "A mask's cells fill its place's box" in (folder / "MODEL_CARD.md").read_text()
    if target == "student-fp32":
        image_module = pytest.importorskip("PIL.Image")
        image_module.open(folder / "sample.png").resize((96, 128)).save(tmp_path / "large.png")
        command = [sys.executable, "-B", folder / "example.py", tmp_path / "large.png", "--score", "0", "-o", tmp_path]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0 and "found" in done.stdout, done.stdout + done.stderr
        assert image_module.open(tmp_path / "large-masks.png").size == (96, 128)
        assert invoke("verify", folder).exit_code == 0


def test_what_is_not_compiled_here_is_parsed(bundle):
    sources = [path for path in bundle("student-fp32").iterdir() if path.suffix in (".cpp", ".kt", ".swift")]
    assert {path.suffix for path in sources} == {".cpp", ".kt"}
    for path in sources:
        check_syntax(path)
