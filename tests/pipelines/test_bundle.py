"""What is shipped is used as its receiver would: in processes that have no kdcompress, no PyTorch and no Pillow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_files import GRAMMARS, bundler, check_syntax, invoke, opened, rows_of, signed_again

from kdcompress.bench import onnxruntime_web
from kdcompress.pipelines.bundle.kinds import KINDS

TARGETS = {
    "student-fp32": "onnx",
    "amd64-ort": "ort",
    "openvino-fp32": "openvino",
    "android-xnnpack-fp32": "executorch",
    "litert-fp32": "litert",
    "ncnn-fp32": "ncnn",
    "mnn-fp32": "mnn",
}
ELSEWHERE = {"ios-coreml": "coreml", "tensorrt-rtx": "tensorrt-rtx", "onnx-cuda": "onnx"}
ON_THE_DEVICE = {"jetson-orin": "fp16", "jetson-orin-int8": "int8", "mine": "fp16"}
MINE = """
description: an engine of one's own
format: tensorrt
precision: fp16
runtime: tensorrt
options: {profile: [1, 1, 4]}
measured_on: the GPU of a robot
"""
SOURCES = {  # format -> the languages that a bundle has examples in, besides Python and JavaScript
    "onnx": {".cpp", ".kt"},
    "ort": {".cpp", ".kt"},
    "executorch": {".kt", ".swift"},
    "litert": {".kt", ".swift"},
    "coreml": {".swift"},
    "tensorrt": {".cpp"},
    "tensorrt-rtx": {".cpp"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, fashion_mnist_root):
    """A run with a file of every format."""
    folder = tmp_path_factory.mktemp("bundle") / "run"
    own = folder.with_name("mine.yaml")
    own.write_text(MINE)
    named = [*TARGETS, *ELSEWHERE, *ON_THE_DEVICE]
    targets = ",".join(str(own) if name == "mine" else name for name in named if name != "student-fp32")
    found = invoke(
        *("run", "fashion-mnist-demo", "data.train_images=1500", f"data.root={fashion_mnist_root}", "teacher=null"),
        *("method=none", "train.epochs=1", "export.max_drop=100", "gates={}", "bench.effort=rapid"),
        *(f"export.targets=[{targets}]", "-o", folder),
    )
    assert (folder / "report.json").is_file(), found.output
    return folder


@pytest.fixture(scope="module")
def rows(run):
    return rows_of(run)


@pytest.fixture(scope="module")
def bundled(run, rows, tmp_path_factory):
    def left_out(target):
        status = rows[target]["status"]
        return status == "failed" or (status == "skipped" and target not in ON_THE_DEVICE)

    return bundler(run, rows, tmp_path_factory.mktemp, left_out)


@pytest.fixture
def whole(bundled, tmp_path):
    """A copy of an ONNX bundle that a test may spoil."""
    return shutil.copytree(bundled("student-fp32"), tmp_path / "bundle")


def test_every_format_has_a_bundle():
    assert set(KINDS) == {*TARGETS.values(), *ELSEWHERE.values(), "tensorrt"}


SLOW = {"android-xnnpack-fp32": pytest.mark.slow}  # it imports PyTorch


@pytest.mark.parametrize("target", [pytest.param(each, marks=SLOW.get(each, ())) for each in TARGETS])
def test_it_checks_itself_and_classifies_without_kdcompress(target, bundled, bare):
    folder = bundled(target)
    # ExecuTorch's own Python package imports PyTorch.
    torch = [] if TARGETS[target] == "executorch" else ["torch", "torchvision"]
    done = bare(folder / "self_check.py", "kdcompress", "PIL", *torch)
    assert done.returncode == 0 and "OK: " in done.stdout, done.stdout + done.stderr
    done = bare(folder / "example.py", "kdcompress", *torch)
    label = json.loads((folder / "expected.json").read_text())["label"]
    assert done.returncode == 0 and f"sample.png: {label} " in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("target", [*TARGETS, *ELSEWHERE])
def test_its_sums_and_its_words_are_right(target, bundled, rows):
    folder = bundled(target)
    assert subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    model = json.loads((folder / "model.json").read_text())
    assert model["format"] == (TARGETS | ELSEWHERE)[target] and model["sha256"] == rows[target]["sha256"]
    assert len(model["labels"]) == model["outputs"][0]["shape"][1] == 10 and model["runtime"]["version"]
    card, row = (folder / "MODEL_CARD.md").read_text(), rows[target]
    if row["score"] is None:
        assert "Not measured: " in card and "By label: not measured" in card
    else:
        assert f"{row['score']:.2f} % of the 2000 test images" in card and card.count(" | 200 |") == 10
    assert "MIT" in card and str(Path.home()) not in card
    for name in (folder / "SHA256SUMS").read_text().split()[1::2]:
        assert name == "MODEL_CARD.md" or name.startswith(model["file"]) or f"`{name}`" in card


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_runtime_that_is_not_here_ends_with_3(target, bundled, rows):
    found = invoke("verify", bundled(target))
    if rows[target]["status"] == "measured":
        assert found.exit_code == 0, found.output
    else:
        assert found.exit_code == 3 and "pip install" in found.stderr


def test_a_missing_package_is_named(whole, bare):
    done = bare(whole / "self_check.py", "onnxruntime")
    assert done.returncode == 3 and "pip install onnxruntime" in done.stdout and not done.stderr


def test_the_one_that_ships_is_the_default(run, tmp_path):
    from kdcompress.report.present import headline

    ship = headline(json.loads((run / "report.json").read_text()))["ship"]
    found = invoke("bundle", run, "-o", tmp_path)
    assert found.exit_code == 0 and found.stdout.strip().endswith(ship["target"] or ship["name"])
    verified = invoke("verify", found.stdout.strip())
    assert verified.exit_code == 0 and "OK: " in verified.stdout


def test_an_archive_has_the_same_bytes_twice(run, tmp_path):
    archives = []
    for name in ("one", "two"):
        arguments = ["bundle", run, "--target", "student-fp32", "--archive", "-o", tmp_path / name, "--json"]
        archives.append(Path(json.loads(invoke(*arguments).stdout)[1]))
    assert archives[0].read_bytes() == archives[1].read_bytes()
    subprocess.run(["tar", "xzf", archives[0]], cwd=tmp_path, check=True)
    assert invoke("verify", tmp_path / archives[0].name.removesuffix(".tar.gz")).exit_code == 0
    assert "OK: " in invoke("verify", archives[0]).stdout


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen")
def test_a_signed_one_is_written_again(run, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "us", "-f", tmp_path / "key"], check=True)
    arguments = ["bundle", run, "--target", "student-fp32", "-o", tmp_path / "made"]
    for more in (["--sign", tmp_path / "key"], ["--sign", tmp_path / "key"], []):
        made = invoke(*arguments, *more, "--json")
        assert made.exit_code == 0, made.stderr
        (folder,) = map(Path, json.loads(made.stdout))
        (folder / "__pycache__").mkdir()  # as Python leaves it where somebody imports classifier.py
        (folder / "__pycache__/classifier.pyc").write_bytes(b"")
        assert "remove what was made there" in invoke("verify", folder).stderr
        shutil.rmtree(folder / "__pycache__")
        if more:
            assert "signed by us" in invoke("verify", folder, "--signer", tmp_path / "key.pub").stdout


def test_it_is_written_again_and_nothing_of_somebody_elses_is_lost(run, tmp_path):
    arguments = ["bundle", run, "--target", "student-fp32", "--archive", "-o", tmp_path, "--json"]
    folder, archive = map(Path, json.loads(invoke(*arguments).stdout))
    assert invoke(*arguments).exit_code == 0
    for mine in (folder / "notes.txt", folder / "MODEL_CARD.md", archive):
        before = mine.read_bytes() if mine.exists() else None
        mine.write_text("mine")
        refused = invoke(*arguments)
        assert refused.exit_code == 2 and mine.name in refused.stderr and mine.read_text() == "mine"
        mine.write_bytes(before) if before else mine.unlink()
    assert invoke(*arguments).exit_code == 0


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen")
def test_a_signed_one(run, tmp_path):
    """Its archive has the signature too."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "us", "-f", key], check=True)
    options = ("--target", "student-fp32", "--sign", key, "--archive", "-o", tmp_path / "made", "--json")
    found = invoke("bundle", run, *options)
    assert found.exit_code == 0, found.output
    folder, archive = map(Path, json.loads(found.stdout))
    shutil.rmtree(folder)
    subprocess.run(["tar", "xzf", archive], cwd=folder.parent, check=True)
    found = invoke("verify", folder, "--signer", f"{key}.pub")
    assert found.exit_code == 0 and "signed by us" in found.stdout and "OK: " in found.stdout, found.output


# Faults


def test_a_damaged_file(whole, bare):
    content = bytearray((whole / "student.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (whole / "student.onnx").write_bytes(content)
    found = invoke("verify", whole)
    assert found.exit_code == 1 and "damaged: student.onnx" in found.stderr
    done = bare(whole / "self_check.py", "kdcompress")
    assert done.returncode == 1 and "damaged: student.onnx" in done.stdout


def test_a_missing_part_of_a_model_of_several_files(bundled, bare, tmp_path):
    folder = shutil.copytree(bundled("openvino-fp32"), tmp_path / "bundle")
    part = next(folder.rglob("*.bin"))
    name = part.relative_to(folder).as_posix()
    next(folder.glob("*/model.bin")).unlink()
    found = invoke("verify", folder)
    assert found.exit_code == 1 and "missing: " in found.stderr and "model.bin" in found.stderr, name
    done = bare(folder / "self_check.py", "kdcompress")
    assert done.returncode == 1 and "model.bin" in done.stdout


def test_too_few_labels(whole):
    model = json.loads((whole / "model.json").read_text())
    model["labels"].pop()
    (whole / "model.json").write_text(json.dumps(model))
    signed_again(whole)
    found = invoke("verify", whole)
    assert found.exit_code == 1 and "10 logits, and model.json has 9 labels" in found.stderr


def test_another_model_than_the_expected_output_is_of(whole):
    expected = json.loads((whole / "expected.json").read_text())
    expected["logits"] = [value * 1.01 for value in expected["logits"]]
    (whole / "expected.json").write_text(json.dumps(expected))
    signed_again(whole)
    found = invoke("verify", whole)
    assert found.exit_code == 1 and "logits differ by 0.0099" in found.stderr and "0.001 is allowed" in found.stderr


@pytest.fixture
def spoilt(run, tmp_path):
    """A copy of the run that a test may spoil, and a function that changes a row of its report."""
    folder = shutil.copytree(run, tmp_path / "run")

    def change(name, **values):
        document = json.loads((folder / "report.json").read_text())
        next(row for row in document["rows"] if row["name"] == name).update(values)
        (folder / "report.json").write_text(json.dumps(document))

    return folder, change


def test_what_failed_is_not_bundled(spoilt):
    folder, change = spoilt
    change("student-fp32", status="failed", why="it is slow", next="another one")
    found = invoke("bundle", folder, "--target", "student-fp32")
    assert found.exit_code == 1 and "may not ship" in found.stderr and "it is slow" in found.stderr
    change("student-fp32", status="skipped", why="no such package")
    assert invoke("bundle", folder, "--target", "student-fp32").exit_code == 3
    assert not (folder / "bundle").exists()


def test_a_file_that_is_not_the_reports_is_not_bundled(spoilt):
    folder, change = spoilt
    change("student-fp32", sha256="0" * 64)
    found = invoke("bundle", folder, "--target", "student-fp32")
    assert found.exit_code == 2 and "not the one in the report" in found.stderr
    (folder / "artifacts/student.onnx").write_bytes(b"damaged")
    found = invoke("bundle", folder, "--target", "student-fp32")
    assert found.exit_code == 2 and "not the one that was recorded" in found.stderr


def test_bad_requests(run, tmp_path):
    assert "did you mean 'mnn-fp32'" in invoke("bundle", run, "--target", "mnn-fp23").stderr
    assert invoke("bundle", tmp_path / "none").exit_code == 2
    assert invoke("verify", tmp_path).exit_code == 2
    name = f"{json.loads((run / 'report.json').read_text())['name']}-student-fp32"
    (tmp_path / name).mkdir()
    found = invoke("bundle", run, "--target", "student-fp32", "-o", tmp_path)
    assert found.exit_code == 2 and "not overwritten" in found.stderr and not any((tmp_path / name).iterdir())


# Other languages


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_the_page_s_module_runs_the_model(bundled, tmp_path):
    """In Node.js, with the files of onnxruntime-web that the page imports."""
    for name, content in onnxruntime_web.files().items():
        (tmp_path / name).write_bytes(content)
    program = tmp_path / "run.mjs"
    program.write_text(
        "import fs from 'node:fs'\n"
        "const [folder, web] = process.argv.slice(2)\n"
        "const ort = await import(web + '/ort.wasm.min.mjs')\n"
        "ort.env.wasm.wasmBinary = fs.readFileSync(web + '/ort-wasm-simd-threaded.wasm')\n"
        "const { load } = await import(folder + '/classifier.mjs')\n"
        "const model = JSON.parse(fs.readFileSync(folder + '/model.json'))\n"
        "ort.env.wasm.numThreads = 1\n"
        "const classifier = await load(ort, new Uint8Array(fs.readFileSync(`${folder}/${model.file}`)), model)\n"
        "console.log(JSON.stringify(await classifier(new Uint8Array(fs.readFileSync(folder + '/sample.bin')))))\n"
    )
    for target in ("student-fp32", "amd64-ort"):
        folder = bundled(target)
        done = subprocess.run(["node", program, folder, tmp_path], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        expected = json.loads((folder / "expected.json").read_text())
        allowed = expected["tolerance"] * max(map(abs, expected["logits"]))
        assert json.loads(done.stdout) == pytest.approx(expected["logits"], abs=allowed)


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_the_page_is_javascript(bundled, tmp_path):
    folder = bundled("student-fp32")
    script = (folder / "index.html").read_text().split('<script type="module">')[1].split("</script>")[0]
    (tmp_path / "page.mjs").write_text(script)
    for path in (tmp_path / "page.mjs", folder / "classifier.mjs"):
        assert subprocess.run(["node", "--check", path], capture_output=True).returncode == 0


@pytest.mark.parametrize("target", ["student-fp32", pytest.param("amd64-ort", marks=pytest.mark.slow)])
def test_the_page_classifies_in_a_browser(target, bundled):
    """With this machine's onnxruntime-web in place of the one that the page gets from the network."""
    folder = bundled(target)
    with opened(folder) as (page, asked):
        state, answers = page.text_content("#state"), page.locator("#answers li").all_text_contents()
    assert state.startswith("sample.png is shown"), state
    assert f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{onnxruntime_web.VERSION}/dist/ort.wasm.min.mjs" in asked
    expected = json.loads((folder / "expected.json").read_text())
    powers = np.exp(np.array(expected["logits"]) - max(expected["logits"]))
    label, share, _ = answers[0].rsplit(" ", 2)
    allowed = 0.2 if target == "student-fp32" else 10  # other CPUs round int8 at other places
    assert label == expected["label"] and float(share) == pytest.approx(100 * powers.max() / powers.sum(), abs=allowed)


@pytest.mark.parametrize("target", [*TARGETS, *ELSEWHERE, *ON_THE_DEVICE])
def test_what_is_not_compiled_here_is_parsed(target, bundled):
    """By the grammars of tree-sitter, which editors use."""
    sources = [path for path in bundled(target).iterdir() if path.suffix in GRAMMARS]
    assert {path.suffix for path in sources} == SOURCES.get((TARGETS | ELSEWHERE).get(target, "tensorrt"), set())
    for path in sources:
        check_syntax(path)


def test_the_program_in_cpp_runs_the_model(bundled, tmp_path):
    """Where ONNXRUNTIME names a folder with include/ and lib/ of ONNX Runtime: its wheel has no headers, and neither
    PyPI, npm nor Debian 12 has a package of them."""
    library = os.environ.get("ONNXRUNTIME")
    if not library or not shutil.which("cmake") or not shutil.which("g++"):
        pytest.skip("no compiler, or ONNXRUNTIME names no unpacked release of ONNX Runtime")
    folder = bundled("student-fp32")
    for command in (
        ["cmake", "-S", folder, "-B", tmp_path, f"-DONNXRUNTIME={library}"],
        ["cmake", "--build", tmp_path],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([tmp_path / "example", "sample.bin"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = json.loads((folder / "expected.json").read_text())
    *lines, answer = done.stdout.splitlines()
    assert [float(line.split()[0]) for line in lines] == pytest.approx(expected["logits"], abs=1e-3)
    assert answer == f"answer: {expected['label']}"


@pytest.mark.parametrize(("target", "precision"), ON_THE_DEVICE.items())
def test_an_engine_is_built_from_the_bundle_on_the_device(target, precision, bundled, rows, bare, tmp_path):
    """With TensorRT-RTX, which builds without a GPU."""
    if rows[target]["status"] != "skipped":
        pytest.skip("TensorRT is here: its engine is bundled")
    folder = bundled(target)
    model = json.loads((folder / "model.json").read_text())
    assert (model["format"], model["precision"], model["built_for"]["profile"]) == ("onnx", precision, [1, 1, 4])
    assert bare(folder / "self_check.py", "kdcompress", "torch", "PIL").returncode == 0
    missing = bare(folder / "build_engine.py", "tensorrt")
    assert missing.returncode == 1 and "JetPack" in missing.stderr
    pytest.importorskip("tensorrt_rtx")
    command = [sys.executable, folder / "build_engine.py", "--module", "tensorrt_rtx", "-o", tmp_path / "model.engine"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "model.engine").read_bytes()[:4] == b"vtrt", done.stderr
    again = subprocess.run([*command, "--refit", tmp_path / "model.engine"], capture_output=True, text=True)
    assert again.returncode == 1 and "build a new engine" in again.stderr  # without a GPU it is not even loaded
