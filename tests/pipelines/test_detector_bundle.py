"""What is shipped of a detector is used as its receiver would: without kdcompress, PyTorch and Pillow."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_files import GRAMMARS, bundler, check_syntax, invoke, opened, ort_stub, rows_of, signed_again

from kdcompress import boxes, matching
from kdcompress.bench import onnxruntime_web
from kdcompress.boxes import suppressed
from kdcompress.data import fit
from kdcompress.data.from_scenes import COUNTS
from kdcompress.pipelines.bundle.folder import TEMPLATES, filled
from kdcompress.pipelines.bundle.kinds import FAMILIES
from kdcompress.tasks import tasks

RECIPE = """
name: scenes
task: detection
data: {source: fashion-mnist-scenes, size: 64, train_images: 160}
student:
  model: fcos/small-resnet10x1
  options: {width: 16, levels: 3, depth: 1}
method: none
train: {epochs: 1, batch_size: 32, optimizer: adamw, lr: 0.004}
export:
  max_drop: 100
  calibration_images: 64
  qat: null
bench: {effort: rapid}
"""
TARGETS = {
    "student-fp32": {".cpp", ".kt"},  # the languages of examples, besides Python and JavaScript
    "amd64-ort": {".cpp", ".kt"},
    "onnx-fp16": {".cpp", ".kt"},
    "openvino-fp32": set(),
    "ncnn-fp32": set(),
    "mnn-fp32": set(),
}
ELSEWHERE = {"tensorrt-rtx": {".cpp"}, "jetson-orin": {".cpp"}}
SLOW = ["android-xnnpack-fp32", "litert-fp32", "ios-coreml"]  # to write
PHONES = [*itertools.product(["executorch", "litert"], ["kt", "swift"]), ("onnx", "kt"), ("coreml", "swift")]


@pytest.fixture(scope="module", autouse=True)
def few():
    """40 scenes to test on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COUNTS, "test", 40)
        patch.setitem(COUNTS, "validation", 40)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, fashion_mnist_root):
    """A run with a file of every format that is written fast."""
    folder = tmp_path_factory.mktemp("detector") / "run"
    recipe = folder.with_name("scenes.yaml")
    recipe.write_text(RECIPE)
    targets = ",".join(name for name in [*TARGETS, *ELSEWHERE] if name != "student-fp32")
    found = invoke("run", recipe, f"data.root={fashion_mnist_root}", f"export.targets=[{targets}]", "-o", folder)
    assert (folder / "report.json").is_file(), found.output
    return folder


@pytest.fixture(scope="module")
def rows(run):
    return rows_of(run)


@pytest.fixture(scope="module")
def bundled(run, rows, tmp_path_factory):
    def left_out(target):
        return rows[target]["status"] in ("skipped", "failed") and target != "jetson-orin"

    return bundler(run, rows, tmp_path_factory.mktemp, left_out)


@pytest.fixture
def whole(bundled, tmp_path):
    """A copy of an ONNX bundle that a test may spoil."""
    return shutil.copytree(bundled("student-fp32"), tmp_path / "bundle")


def changed(folder, **values):
    """With other entries in expected.json, as if it had been packed so."""
    path = folder / "expected.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    signed_again(folder)
    return invoke("verify", folder)


@pytest.mark.parametrize("target", TARGETS)
def test_it_checks_itself_and_finds_boxes_without_kdcompress(target, bundled, bare):
    folder = bundled(target)
    done = bare(folder / "self_check.py", "kdcompress", "PIL", "torch", "torchvision")
    assert done.returncode == 0 and "OK: " in done.stdout, done.stdout + done.stderr
    if target == "student-fp32":
        done = bare(folder / "example.py", "kdcompress", "PIL", "torch", "torchvision")
        assert done.returncode == 0 and "needs Pillow" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", SLOW)
def test_those_that_are_written_slowly(run, target, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    invoke("run", folder.parent / "run" / "recipe.yaml", f"export.targets=[{target}]", "-o", folder)
    row = next(row for row in json.loads((folder / "report.json").read_text())["rows"] if row["target"] == target)
    if row["status"] not in ("measured", "built, not run"):
        pytest.skip(row["why"])
    found = invoke("bundle", folder, "--target", target, "-o", tmp_path / "made")
    assert found.exit_code == 0, found.output
    found = invoke("verify", found.stdout.strip())
    assert found.exit_code == (0 if row["status"] == "measured" else 3), found.output


@pytest.mark.parametrize("target", [*TARGETS, *ELSEWHERE])
def test_its_sums_and_its_words_are_right(target, bundled, rows):
    folder, row = bundled(target), rows[target]
    assert subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    model, card = json.loads((folder / "model.json").read_text()), (folder / "MODEL_CARD.md").read_text()
    places, labels = model["outputs"][1]["shape"][1:]
    assert model["outputs"][0]["shape"][1:] == [places, 4] and labels == len(model["labels"]) == 10
    assert model["suppression"] == {"score": 0.05, "iou": 0.6, "before": 1000, "most": 100}
    assert "## Box AP" in card and "x1, y1, x2, y2 in pixels of the input" in card
    if row["score"] is None:
        assert "Not measured: " in card and "By label: not measured" in card
    else:
        named = {"AP": row["score"], **row["details"]}
        figures = ", ".join(f"{name} {named[name]:.2f} %" for name in ("AP", "AP50", "AP75"))
        assert f"{figures} on the 40 test images, by this very file" in card
        assert "| label | AP % | objects in the test images |" in card
    for name in (folder / "SHA256SUMS").read_text().split()[1::2]:
        assert name == "MODEL_CARD.md" or name.startswith(model["file"]) or f"`{name}`" in card
    for name, module in (("boxes", boxes), ("fit", fit)):
        assert (folder / f"{name}.py").read_bytes() == Path(module.__file__).read_bytes()
    assert "kdcompress" not in (folder / "matching.py").read_text()


def test_a_runtime_that_is_not_here_ends_with_3(bundled, rows):
    found = invoke("verify", bundled("tensorrt-rtx"))
    if rows["tensorrt-rtx"]["status"] == "measured":
        assert found.exit_code == 0, found.output
    else:
        assert found.exit_code == 3 and "pip install" in found.stderr


def test_the_boxes_of_an_image_are_drawn(whole, bare, tmp_path):
    """In its own pixels: the sample, twice as wide and three times as high as it is, on a grey ground."""
    image_module = pytest.importorskip("PIL.Image")
    sample = image_module.open(whole / "sample.png").convert("RGB")
    sample.resize((sample.width * 2, sample.height * 3)).save(tmp_path / "large.png")
    command = [sys.executable, "-B", whole / "example.py", tmp_path / "large.png", "--score", "0", "-o", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0 and "100 found" in done.stdout, done.stdout + done.stderr
    places = [line.partition(" at ")[2] for line in done.stdout.splitlines() if " at " in line]
    corners = np.array([[float(value) for value in place.split(", ")] for place in places])
    assert (corners >= 0).all() and (corners[:, [0, 2]] <= 128).all() and (corners[:, [1, 3]] <= 192).all()
    drawn = image_module.open(tmp_path / "large-boxes.png")
    assert drawn.size == (128, 192) and (np.asarray(drawn) == (255, 60, 0)).all(-1).any()
    assert invoke("verify", whole).exit_code == 0  # nothing was written into the bundle


def test_every_task_has_programs():
    assert {tasks[name].program for name in tasks} == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert family.programs[-1] == name and (TEMPLATES / name / f"{name}.py").is_file()


# What the check catches


def test_other_boxes_are_found(whole):
    rows = json.loads((whole / "expected.json").read_text())["detections"]
    assert rows
    best = {"label": rows[0]["label"], "score": 0.9, "box": [0.0, 0.0, 1.0, 1.0]}
    found = changed(whole, detections=[best, *rows])
    assert found.exit_code == 1 and "1 are not found here; 0 others are" in found.stderr
    other = {**rows[0], "label": (rows[0]["label"] + 1) % 10, "box": [60.0, 60.0, 61.0, 61.0]}
    found = changed(whole, detections=[other, *rows[1:]])
    assert found.exit_code == 1 and "1 are not found here; 1 others are" in found.stderr


def test_other_scores(whole):
    expected = json.loads((whole / "expected.json").read_text())
    expected["detections"][0]["score"] += 3 * expected["tolerance"]
    found = changed(whole, **expected)
    assert found.exit_code == 1 and "scores differ by" in found.stderr and "is allowed" in found.stderr


@pytest.mark.parametrize(("change", "said"), [("labels", "model.json has 9 labels"), ("places", "[[85, 4]")])
def test_a_model_json_of_another_model(whole, change, said):
    model = json.loads((whole / "model.json").read_text())
    if change == "labels":
        model["labels"].pop()
    else:
        model["outputs"][0]["shape"][1] = 85
    (whole / "model.json").write_text(json.dumps(model))
    signed_again(whole)
    found = invoke("verify", whole)
    assert found.exit_code == 1 and said in found.stderr


def test_what_is_expected_by_hand():
    """Places 0 and 1 overlap by 0.9 and have one label: one is kept. 0.3 is enough, or half of the best."""
    task = tasks["detection"]
    places = np.array([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]], np.float32)
    scores = np.array([[[0.75, 0], [0.5, 0], [0, 0.5]]], np.float32)
    expected = task.expected((places, scores), "fp16")
    assert expected["detections"] == [
        {"label": 0, "score": 0.75, "box": [0, 0, 10, 10]},
        {"label": 1, "score": 0.5, "box": [20, 20, 30, 30]},
    ]
    assert (expected["score"], expected["overlap"]) == (0.3, 0.9) and expected["tolerance"] == pytest.approx(0.015)
    low = task.expected((places, scores / 4), "int8")
    assert low["score"] == 0.75 / 8 and low["overlap"] == 0.5 and low["tolerance"] == pytest.approx(0.15 * 0.75 / 4)
    assert len(low["detections"]) == 2


def test_the_sample_is_sure_whatever_overlap_suppresses():
    """Of three images with one object each: the second's two boxes overlap by 0.55, the third's score is the surest."""
    task = tasks["detection"]
    truth = np.zeros((3, 1, 6), np.float32)
    truth[:, 0] = [0, 0, 10, 10, 1, 1]
    places = np.zeros((3, 2, 4), np.float32)
    places[:, 0], places[:, 1] = [0, 0, 10, 10], [40, 40, 50, 50]
    places[1, 1] = [0, 0, 10, 5.5]
    scores = np.zeros((3, 2, 2), np.float32)
    scores[0, 0, 0], scores[1, :, 0], scores[2, 0, 0] = 0.5, (0.95, 0.94), 0.8
    assert task.sample((places, scores), truth, np.array([1, 0])) == 2
    scores[2, 0] = [0, 0.9]  # surer, but of the wrong label
    assert task.sample((places, scores), truth, np.array([1, 0])) == 0
    places[1, 1], scores[1, 1, 0] = [0, 0, 10, 8], 0.949  # suppressed, but by little: it could be the other way round
    assert task.sample((places, scores), truth, np.array([1, 0])) == 0
    scores[1, 1, 0] = 0.8
    assert task.sample((places, scores), truth, np.array([1, 0])) == 1


# Other languages


def crowd():
    """Boxes [84, 4] and scores [84, 10] with repetitions, some not finite."""
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 50, (84, 2)).repeat(4, 0)[:84]
    places = np.concatenate([corners, corners + rng.uniform(3, 14, (84, 2))], 1).astype(np.float32)
    places[3, 1], places[8, 2] = np.nan, np.inf
    return places, rng.beta(0.6, 1.4, (84, 10)).astype(np.float32)


def same(found, rows):
    """Whether rows (label, score, x1, y1, x2, y2) are what was found."""
    expected = np.concatenate([found.labels[:, None], found.scores[:, None], found.boxes], 1)
    assert len(rows) == len(expected) > 20
    assert np.allclose(np.array(rows, float), expected, atol=6e-3)


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_the_page_s_module_finds_the_same(bundled, tmp_path):
    """In Node.js, with the files of onnxruntime-web that the page imports."""
    for name, content in onnxruntime_web.files().items():
        (tmp_path / name).write_bytes(content)
    folder = bundled("student-fp32")
    places, scores = crowd()
    rng = np.random.default_rng(2)
    cases = [(kind, *map(int, rng.integers(1, 900, 4))) for kind in ("letterbox", "crop", "squash") for _ in range(300)]
    given = {"boxes": [str(value) for value in places.ravel()], "scores": scores.ravel().tolist(), "cases": cases}
    (tmp_path / "given.json").write_text(json.dumps(given))
    program = tmp_path / "run.mjs"
    program.write_text(
        "import fs from 'node:fs'\n"
        "const [folder, web] = process.argv.slice(2)\n"
        "const ort = await import(web + '/ort.wasm.min.mjs')\n"
        "ort.env.wasm.wasmBinary = fs.readFileSync(web + '/ort-wasm-simd-threaded.wasm')\n"
        "ort.env.wasm.numThreads = 1\n"
        "const { load, placed, suppressed } = await import(folder + '/detector.mjs')\n"
        "const read = (name) => JSON.parse(fs.readFileSync(name))\n"
        "const [model, expected] = ['model', 'expected'].map((name) => read(`${folder}/${name}.json`))\n"
        "const given = read(web + '/given.json')\n"
        "const number = (text) => ({ nan: NaN, inf: Infinity })[text] ?? Number(text)\n"
        "const boxes = Float32Array.from(given.boxes, number)\n"
        "const detector = await load(ort, new Uint8Array(fs.readFileSync(`${folder}/${model.file}`)), model)\n"
        "const found = await detector(new Uint8Array(fs.readFileSync(folder + '/sample.bin')), expected.score)\n"
        "const rows = (each) => each.map(({ box, label, score }) => [label, score, ...box])\n"
        "const limits = { ...model.suppression, score: 0.3 }\n"
        "const kept = suppressed(boxes, Float32Array.from(given.scores), limits)\n"
        "const places = given.cases.map(([fit, h, w, height, width]) => {\n"
        "  const place = placed(w, h, { fit, input: { width, height } })\n"
        "  return [place.height, place.width, place.y, place.x]\n"
        "})\n"
        "console.log(JSON.stringify({ found: rows(found), kept: rows(kept), places }))\n"
    )
    done = subprocess.run(["node", program, folder, tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    answer, expected = json.loads(done.stdout), json.loads((folder / "expected.json").read_text())
    same(suppressed(places, scores, score=0.3), answer["kept"])
    wanted = [[row["label"], row["score"], *row["box"]] for row in expected["detections"]]
    both = [
        boxes.Detections(rows[:, 2:], rows[:, 0].astype(int), rows[:, 1])
        for rows in (np.array(each) for each in (answer["found"], wanted))
    ]
    matched = matching.matched(*both, overlap=0.9, score=expected["score"], tolerance=expected["tolerance"])
    assert len(matched.pairs) > 0 and matched.alone == (0, 0)
    for (kind, height, width, *frame), place in zip(cases, answer["places"], strict=True):
        there = fit.placed((height, width), tuple(frame), kind)
        assert tuple(place) == (*there.resized, *there.corner)


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_the_program_in_cpp_prints_what_a_model_finds(bundled, tmp_path):
    """Against a stand-in for ONNX Runtime's header, which no package has, that gives what is in two files."""
    folder = bundled("student-fp32")
    places, scores = crowd()
    outputs = json.loads((folder / "model.json").read_text())["outputs"]
    assert outputs[1]["shape"][1:] == list(scores.shape)
    for name, values in (("boxes", places), ("scores", scores)):
        values.tofile(tmp_path / f"{name}.bin")
    (tmp_path / "onnxruntime_cxx_api.h").write_text(ort_stub([1, len(places), 4], [1, len(places), scores.shape[1]]))
    command = ["g++", "-std=c++17", "-Wall", "-Werror", f"-I{tmp_path}", folder / "example.cpp"]
    done = subprocess.run([*command, "-o", tmp_path / "example"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = [tmp_path / "example", folder / "sample.bin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels = json.loads((folder / "model.json").read_text())["labels"]
    lines = [line.replace(" at ", " ").rsplit(" ", 4) for line in done.stdout.splitlines()]
    rows = [[labels.index(first.partition(" ")[2]), first.partition(" ")[0], *box] for first, *box in lines]
    same(suppressed(places, scores, score=0.3), rows)


@pytest.mark.parametrize("target", [*TARGETS, *ELSEWHERE])
def test_what_is_not_compiled_here_is_parsed(target, bundled):
    sources = [path for path in bundled(target).iterdir() if path.suffix in GRAMMARS]
    assert {path.suffix for path in sources} == (TARGETS | ELSEWHERE)[target]
    for path in sources:
        assert path.stem in ("Detector", "example")
        check_syntax(path)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("template", [f"{runtime}.{language}" for runtime, language in PHONES])
def test_what_runs_on_phones_is_parsed(template, layout, bundled, tmp_path):
    model = json.loads((bundled("student-fp32") / "model.json").read_text())
    model["input"] |= {"layout": layout, "dtype": "uint8" if layout == "NHWC" else "float32"}
    model["built_for"]["minimum_deployment_target"] = "iOS 16"
    values = {"model": model, "program": "detector", "threads": 1}
    path = tmp_path / f"Detector.{template.rpartition('.')[2]}"
    path.write_text(filled(template, values))
    check_syntax(path)
    assert "class Detector" in path.read_text() and "> 0.3" in path.read_text()


def test_the_page_shows_boxes_of_an_image_and_of_a_camera(bundled):
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with opened(bundled("student-fp32"), *camera) as (page, asked):
        assert page.text_content("#state").startswith("sample.png is shown"), page.text_content("#state")
        page.fill("#score", "0")
        page.dispatch_event("#score", "change")
        page.wait_for_function("document.querySelectorAll('#answers li').length === 100")
        assert " % at " in page.locator("#answers li").first.text_content()
        drawn = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
        assert page.evaluate(f"{drawn}.some((value, i, all) => i % 4 === 0 && Math.abs(value - all[i + 1]) > 100)")
        assert page.evaluate("canvas.width") == 448
        page.click("#camera")
        page.wait_for_function("document.getElementById('state').textContent.startsWith('The camera is shown')")
        page.wait_for_function("canvas.width > canvas.height")  # the camera's image is no square
        page.click("#camera")
        assert page.text_content("#camera") == "Use the camera"
        assert f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{onnxruntime_web.VERSION}/dist/ort.wasm.min.mjs" in asked
