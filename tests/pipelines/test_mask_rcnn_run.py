"""A run of Mask R-CNN on scenes, and its bundle, as its receiver would use it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bundle_files import bundler, check_syntax, invoke, ort_stub, rows_of
from scene_runs import scenes_run

from kdcompress.segments import segmented

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


@pytest.mark.slow
def test_what_cannot_be_is_refused_before_anything_trains(ran, fashion_mnist_root):
    asked = "run", ran[1].parent / "scenes.yaml", f"data.root={fashion_mnist_root}", "-o", "no"
    found = invoke(*asked, "export.targets=[mnn-fp32]")
    assert found.exit_code == 2 and "second stage" in found.stderr and "yolact/BACKBONE" in found.stderr
    teacher = "teacher={model: maskrcnn/small-resnet10x1, options: {width: 16, levels: 4, hidden: 16, depth: 1}}"
    student = "student={model: yolact/small-resnet10x1, options: {width: 8, levels: 4, finest: 4, depth: 1}}"
    found = invoke(*asked, teacher, student, "method=kd")
    assert found.exit_code == 2 and "different places" in found.stderr, found.stderr


@pytest.mark.slow
def test_a_teacher_teaches_a_student_of_prototypes(ran, fashion_mnist_root, tmp_path):
    teacher = "teacher={model: maskrcnn/small-resnet10x1, options: {width: 16, levels: 4, hidden: 16, samples: 16}}"
    student = "student={model: yolact/small-resnet10x1, options: {width: 8, levels: 4, finest: 4, depth: 1}}"
    asked = "run", ran[1].parent / "scenes.yaml", f"data.root={fashion_mnist_root}", "-o", tmp_path / "run"
    found = invoke(*asked, teacher, student, "method=reviewkd", "export.targets=[]", "--json")
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


# Other languages


def crowd(seed=5):
    """Outputs to one image of 64 x 64 pixels, of 20 places with ten labels, with repetitions, at its borders too."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (10, 2)).repeat(2, 0)
    boxes = np.concatenate([corners - 4, corners + rng.uniform(3, 24, (20, 2))], 1).clip(0, 64).astype(np.float32)
    boxes[3, 1], boxes[8, 2] = np.nan, np.inf
    boxes[5] = 20  # without an area
    scores = rng.beta(0.6, 1.4, (20, 10)).astype(np.float32)
    cells = rng.random((20, 32, 32))
    masks = sum(cells[:, i : i + 28, j : j + 28] for i in range(4) for j in range(4)) / 16
    return boxes, scores, masks.astype(np.float32)


def nearly(mask, other):
    """All pixels but those that lie on half to the last digit."""
    assert 0.02 < other.mean() < 0.95 and (mask != other).mean() < 2e-4


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_the_page_s_module_makes_the_same_masks(bundle, tmp_path):
    folder, outputs = bundle("student-fp32"), crowd()
    given = [list(map(str, each.ravel())) for each in outputs]
    (tmp_path / "given.json").write_text(json.dumps(given))
    program = tmp_path / "run.mjs"
    program.write_text(
        "import fs from 'node:fs'\n"
        "const [folder, given] = process.argv.slice(2)\n"
        "const { masked, suppressed } = await import(folder + '/instance_segmenter.mjs')\n"
        "const read = (name) => JSON.parse(fs.readFileSync(name))\n"
        "const model = read(folder + '/model.json')\n"
        "const number = (text) => ({ nan: NaN, inf: Infinity })[text] ?? Number(text)\n"
        "const all = read(given).map((each) => Float32Array.from(each, number))\n"
        "const found = suppressed(all[0], all[1], { ...model.suppression, score: 0.3 })\n"
        "const rows = found.map((one) => [one.label, one.score, ...masked(one, all[2], model)])\n"
        "console.log(JSON.stringify(rows))\n"
    )
    done = subprocess.run(["node", program, folder, tmp_path / "given.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted, rows = segmented(*outputs, size=(64, 64), score=0.3), np.array(json.loads(done.stdout))
    assert len(rows) == len(wanted) > 20 and (rows[:, 0] == wanted.labels).all()
    nearly(rows[:, 2:].reshape(-1, 64, 64).astype(bool), wanted.masks)


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_the_program_in_cpp_draws_the_same_masks(bundle, tmp_path):
    """Against a stand-in for ONNX Runtime's header, which no package has, that gives what is in three files. On black,
    half of a colour is where a mask is."""
    folder, outputs = bundle("student-fp32"), crowd()
    for name, values in zip(("boxes", "scores", "masks"), outputs):
        values.tofile(tmp_path / f"{name}.bin")
    (tmp_path / "black.bin").write_bytes(bytes(64 * 64 * 3))
    (tmp_path / "onnxruntime_cxx_api.h").write_text(ort_stub([1, 20, 4], [1, 20, 10], [1, 20, 28, 28]))
    command = ["g++", "-std=c++17", "-Wall", "-Werror", f"-I{tmp_path}", folder / "example.cpp"]
    done = subprocess.run([*command, "-o", tmp_path / "example"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([tmp_path / "example", "black.bin"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = segmented(*outputs, size=(64, 64), score=0.3)
    assert len(done.stdout.splitlines()) == len(wanted) + 1
    pixels = (tmp_path / "masks.ppm").read_bytes()[13:]
    nearly(np.frombuffer(pixels, np.uint8).reshape(64, 64, 3).any(2), wanted.masks.any(0))


def test_what_is_not_compiled_here_is_parsed(bundle):
    sources = [path for path in bundle("student-fp32").iterdir() if path.suffix in (".cpp", ".kt", ".swift")]
    assert {path.suffix for path in sources} == {".cpp", ".kt"}
    for path in sources:
        check_syntax(path)
    assert "val masks = floats" in (bundle("student-fp32") / "InstanceSegmenter.kt").read_text()
