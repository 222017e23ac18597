"""Programs of a bundle whose model gives masks of cells over boxes: they make the masks that Python does."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from bundle_files import check_syntax, masks_of_page, ort_stub

from kdcompress.artifact import Output
from kdcompress.pipelines.bundle.folder import filled
from kdcompress.segments import segmented
from kdcompress.tasks import tasks

TASK, LABELS = tasks["instance-segmentation"], "abcdefghij"
FILES = {
    "example.cpp": "example.cpp",
    "instance_segmenter.mjs": "instance_segmenter.mjs",
    "onnx.kt": "InstanceSegmenter.kt",
    "tensorrt.cpp": "tensorrt.cpp",
}


def described(output: Output):
    return {"name": output.name, "dtype": "float32", "shape": [None, *output.shape], "meaning": output.meaning}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The programs, and the parts of model.json that they are made from."""
    outputs, made = TASK.outputs(LABELS, [(20, 4), (20, 10), (20, 28, 28)]), tmp_path_factory.mktemp("programs")
    image = {"name": "image", "height": 64, "width": 64, "channels": 3, "shape": [None, 64, 64, 3], "layout": "NHWC"}
    model = {
        "name": "scenes",
        "runtime": {"version": None},
        "built_for": {},
        "file": "model.onnx",
        "input": {**image, "dtype": "uint8", "colours": "RGB"},
        "outputs": [described(output) for output in outputs],
        "labels": list(LABELS),
        **TASK.reading({}),
    }
    (made / "model.json").write_text(json.dumps(model))
    values = {"model": model, "program": "instance_segmenter", "Program": "InstanceSegmenter", "threads": 1}
    for template, name in FILES.items():
        (made / name).write_text(
            filled(template, {**values, "library": "tensorrt", "engine": "model.engine", "row": {}})
        )
    return made


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
def test_the_page_s_module_makes_the_same_masks(folder, tmp_path):
    outputs = crowd()
    wanted, rows = segmented(*outputs, size=(64, 64), score=0.3), masks_of_page(folder, outputs, tmp_path)
    assert len(rows) == len(wanted) > 20 and (rows[:, 0] == wanted.labels).all()
    nearly(rows[:, 2:].reshape(-1, 64, 64).astype(bool), wanted.masks)


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_the_program_in_cpp_draws_the_same_masks(folder, tmp_path):
    """Against a stand-in for ONNX Runtime's header, which no package has, that gives what is in three files. On black,
    half of a colour is where a mask is."""
    outputs = crowd()
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


@pytest.mark.parametrize("name", ["example.cpp", "tensorrt.cpp", "InstanceSegmenter.kt"])
def test_what_is_not_compiled_here_is_parsed(name, folder):
    check_syntax(folder / name)
    assert "masks" in (folder / name).read_text() and "prototypes" not in (folder / name).read_text().lower()
