"""benchmarks/gpu.py: the whole day in its smallest form on the CPU, what it refuses, how it goes on, and its page."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export.run_tensorrt_rtx import check_supported

FOLDER = Path(__file__).parents[2] / "benchmarks"
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def gpu(benchmark_script):
    return benchmark_script("gpu")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What sections, which are processes of their own, set for all that follows."""
    monkeypatch.setenv("KDCOMPRESS_TEACHER_CACHE", "")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def small(gpu, monkeypatch):
    """One cell of trainings, of networks of a moment."""
    from on_gpu import training

    cell = training.Cell("reviewkd", ("resnet14", "resnet8"), 32, 4, 16, 10, ("fp32 (TF32)",))
    monkeypatch.setattr(training, "cells", lambda tiny: [cell])
    return training


def section(gpu, folder, **rest):
    return gpu.Section(**{"path": folder / "found.json", "seconds": 60, "tiny": True, "files": folder / "files"} | rest)


def day(*arguments):
    """The script in a process of its own: exit code and what it said."""
    command = [sys.executable, str(FOLDER / "gpu.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout + done.stderr


@without_gpu
def test_without_a_gpu_the_day_is_refused_and_the_trial_is_named(gpu, tmp_path):
    with pytest.raises(RuntimeMissingError, match="No CUDA device") as told:
        gpu.main(["--output", str(tmp_path)])
    assert "--tiny" in str(told.value) and not list(tmp_path.iterdir())


def test_sections_are_processes_that_go_on_where_the_day_was_killed(tmp_path):
    asked = ("--tiny", "--sections", "machine", "--output", tmp_path)
    assert day(*asked)[0] == 0
    document = json.loads((tmp_path / "gpu.json").read_text())
    machine = document["sections"]["machine"]
    assert machine["status"] == "done" and machine["machine"]["cpu"] and machine["versions"]["torch"]
    code, said = day(*asked)
    assert code == 2 and "--resume" in said
    code, said = day(*asked, "--resume", "--page", tmp_path / "page.md")
    assert code == 0 and "machine: there already" in said
    assert json.loads((tmp_path / "gpu.json").read_text()) == document
    page = (tmp_path / "page.md").read_text()
    assert "its figures say nothing" in page and page.count("Not measured.") == 5


def test_a_trial_and_a_day_do_not_go_into_one_file(gpu, tmp_path):
    (tmp_path / "gpu.json").write_text(json.dumps({"begun": "", "tiny": False, "sections": {}}))
    with pytest.raises(UsageError, match="do not go into one file"):
        gpu.main(["--tiny", "--resume", "--output", str(tmp_path)])


def test_a_section_that_fails_has_its_reason_and_the_others_go_on(gpu, tmp_path, monkeypatch):
    def run(name, options):
        return {"status": "failed" if name == "machine" else "done", "why": "it broke", "seconds": 1, "rows": []}

    monkeypatch.setattr(gpu, "run", run)
    asked = ["--tiny", "--sections", "machine,tests", "--output", str(tmp_path), "--page", str(tmp_path / "page.md")]
    gpu.main(asked)
    assert "**Failed** after 1 s: it broke" in (tmp_path / "page.md").read_text()
    monkeypatch.setattr(gpu, "run", lambda name, options: {**run("tests", options), "why": f"again {name}"})
    gpu.main([*asked, "--resume"])
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert found["machine"]["why"] == "again machine" and found["tests"]["why"] == "it broke"


@pytest.mark.parametrize(
    ("code", "said", "status", "why"),
    [
        (0, "a warning", "done", ""),
        (1, "Traceback\n  line\nValueError: broken", "failed", "ValueError: broken"),
        (3, "", "refused", "exit status 3"),
        (None, "a warning", "stopped", "its time was over"),
        (-14, "", "stopped", "its time was over"),
        (-11, "", "failed", "signal 11 (SIGSEGV)"),
    ],
)
def test_how_a_section_ended_is_told(gpu, code, said, status, why):
    found = gpu.ended(code, said)
    assert found[0] == status and found[1].startswith(why)


def test_a_section_that_takes_too_long_keeps_its_rows(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0)
    monkeypatch.setitem(gpu.SECONDS, "machine", 0.05)
    options = gpu.parsed(["--tiny", "--output", str(tmp_path)])
    found = gpu.run("machine", options)
    assert found["status"] == "stopped" and found["rows"] == []
    kept = section(gpu, tmp_path)
    kept.add(row=1)
    kept.tell(fact=2)
    assert json.loads(kept.path.read_text()) == {"fact": 2, "rows": [{"row": 1}]}


def test_the_plain_loop_and_the_engine_train_the_same_networks_in_turns(gpu, small, tmp_path):
    made = section(gpu, tmp_path)
    small.measure(made)
    plain, ours = made.rows
    assert made.facts["settings"]["cudnn.benchmark"] is False
    assert (plain["loop"], ours["loop"]) == ("plain loop", "kdcompress")
    assert all(row["n"] == 2 and min(row["samples_ms"]) > 0 for row in made.rows)
    assert ours["images_per_second"] == pytest.approx(4e3 / ours["step_ms"])
    assert ours["times_faster"]["low"] is None and plain["times_faster"] is None  # two rounds support no interval
    assert all(row["compiled"] == "off" for row in made.rows)


def test_networks_are_compiled_in_both_loops(gpu, small, monkeypatch):
    from training import Member, distillation, synthetic

    asked, compile = [], torch.nn.Module.compile

    def eagerly(self, *args, mode, **rest):  # the compiler itself is not what is tried
        asked.append(mode)
        return compile(self, *args, backend="eager", **rest)

    monkeypatch.setattr(Member, "compile", eagerly)
    source = synthetic(8, 32, 10)
    for steps in (small.plain_steps, small.our_steps):
        made = distillation("none", ("resnet8", "resnet8"), source)
        setting = small.SETTINGS["bf16, channels_last, CUDA graphs"]
        with steps(made, source, setting, 4, torch.device("cpu")) as (block, said):
            assert block(1) > 0 and said == "reduce-overhead"
        assert made.student._compiled_call_impl is None
    assert asked == ["reduce-overhead"] * 2


def test_enough_rounds_give_the_ratio_an_interval(gpu, small):
    cell = small.cells(True)[0]
    samples = {("plain loop", "fp32 (TF32)"): [4.0, 4.1] * 8, ("kdcompress", "fp32 (TF32)"): [2.0, 2.05] * 8}
    facts = dict.fromkeys(samples, {"compiled": "off", "peak_mib": 7.0})
    ours = small.rows(cell, samples, facts)[1]
    assert ours["times_faster"]["median"] == 2 and 1.9 < ours["times_faster"]["low"] < 2
    assert ours["n"] == 16 and ours["peak_mib"] == 7


@pytest.mark.parametrize("method", ["none", "kd"])
def test_both_loops_move_the_student_by_the_same_losses(gpu, small, method):
    """One step each on images that the views leave alone: the same weights before, nearly the same after."""
    from training import distillation, synthetic

    source, moved = synthetic(4, 32, 10), []
    source.train.images[:] = source.train.images[:1]  # so that the order is no matter, and mirrored, so that no flip is
    source.train.images[:, :, 16:] = source.train.images[:, :, 15::-1]
    source.train.truth[:] = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "AUGMENT", small.AUGMENT.model_copy(update={"crop": 0, "flip": False}))
        for steps in (small.plain_steps, small.our_steps):
            made = distillation(method, ("resnet14", "resnet8"), source)
            before = {k: v.clone() for k, v in made.student.net.state_dict().items()}
            with steps(made, source, small.SETTINGS["fp32 (TF32)"], 4, torch.device("cpu")) as (block, _):
                block(1)
            moved.append({k: v - before[k] for k, v in made.student.net.state_dict().items() if v.is_floating_point()})
    for name, change in moved[0].items():
        assert torch.allclose(change, moved[1][name], rtol=1e-2, atol=1e-7), name


def test_the_plain_crops_are_parts_of_the_padded_image(gpu, small):
    images = torch.arange(1, 6 * 3 * 8 * 8 + 1).reshape(6, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    made = small.cropped_and_flipped(images, 2, generator)
    for image, whole in zip(made, padded):
        windows = [whole[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        assert any(torch.equal(image, w) or torch.equal(image, w.flip(2)) for w in windows)


def test_views_input_and_kept_answers_are_measured(gpu, tmp_path, monkeypatch):
    from on_gpu import feeding

    few = feeding.synthetic(32, 32, 10)
    monkeypatch.setattr(feeding, "synthetic", lambda *_: few)
    made = section(gpu, tmp_path)
    feeding.measure(made)
    parts = {part: [row for row in made.rows if row["part"] == part] for part in ("views", "input", "answers")}
    assert {row["views"] for row in parts["views"]} == set(feeding.VIEWS)
    assert {row["input"] for row in parts["input"]} == {feeding.EACH_STEP, feeding.SAME, feeding.FROM_HOST}
    first, online, later = parts["answers"]
    assert first["hit_percent"] == 50 and later["hit_percent"] == 100 and online["hit_percent"] is None
    assert len(later["images_per_second"]) == later["n"] == 2


@without_gpu
@pytest.mark.parametrize("name", ["measure_engines", "measure_provider"])
def test_files_are_prepared_and_what_needs_a_gpu_is_refused(gpu, name, tmp_path_factory):
    from on_gpu import files

    folder = tmp_path_factory.getbasetemp() / "gpu-files"  # the second finds what the first has made
    folder.mkdir(exist_ok=True)
    made = section(gpu, folder)
    with pytest.raises(RuntimeMissingError, match="No CUDA device"):
        getattr(files, name)(made)
    assert (folder / "files/student.onnx.json").is_file() and made.rows == []


@without_gpu
def test_a_file_is_looked_at_by_its_own_runner(gpu, tmp_path):
    """As an engine would be, with a file that runs here: parity, score and latency against the parent."""
    from on_gpu import files

    source = files.images_of(None, True)
    job = files.prepared(tmp_path / "files", source, True)
    told = files.made(job, "tensorrt-rtx", tmp_path)
    assert isinstance(told, str) and ("No CUDA device" in told or "tensorrt_rtx" in told)
    made = section(gpu, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(files.timing.EFFORTS, "rapid", (11, 0.05))
        patch.setattr(files, "SECONDS_EACH", 0)
        files.looked_at(made, job, {"again": job.parent}, source)
        made.seconds = 0  # no time is left
        files.looked_at(made, job, {}, source)
    parent, again, untimed = made.rows
    assert untimed["latency"] is None and untimed["score"] == parent["score"]
    assert parent["target"] == "student.onnx" and again["parity"]["passed"] and again["score"] == parent["score"]
    assert again["latency"]["n"] >= again["latency"]["ratio"]["n"] >= 11


@pytest.mark.parametrize(("capability", "refused"), [("9.0", True), ("8.7", True), ("8.9", False), ("12.0", False)])
def test_a_gpu_that_tensorrt_rtx_does_not_support_is_refused(capability, refused):
    trt = pytest.importorskip("tensorrt_rtx")
    gpu = {"name": "GPU", "compute_capability": capability}
    if not refused:
        return check_supported(trt, gpu)
    with pytest.raises(RuntimeMissingError, match="does not run on this GPU") as told:
        check_supported(trt, gpu)
    assert f"compute capability {capability}" in str(told.value) and "target tensorrt there" in str(told.value)


def test_the_tests_that_need_a_gpu_are_counted(gpu, tmp_path, monkeypatch):
    from on_gpu import machine

    assert "tests/data/test_policy.py" in machine.marked() and "tests/test_errors.py" not in machine.marked()
    assert machine.counts("1 failed, 3 passed, 12 deselected in 2.05s") == {"failed": 1, "passed": 3}
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text("def pytest_configure(config): config.addinivalue_line('markers', 'gpu: x')\n")
    (tests / "test_one.py").write_text(
        "import pytest\n@pytest.mark.gpu\ndef test_a(): pass\n"
        "@pytest.mark.gpu\ndef test_b(): assert 0\ndef test_c(): assert 0\n"
    )
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    made = section(gpu, tmp_path)
    with pytest.raises(KDCompressError, match="did not pass") as told:
        machine.run_tests(made)
    assert "test_b" in told.value.got and made.facts["counts"] == {"failed": 1, "passed": 1} and len(made.rows) == 2


def test_the_page_has_what_the_json_has_and_no_more(gpu, tmp_path):
    rows = [
        {**{"method": "kd", "teacher": "a", "student": "b", "size": 32, "batch": 64, "setting": "bf16", "n": 15}, **row}
        for row in (
            {"loop": "plain loop", "images_per_second": 1000.4, "times_faster": None, "times_first": None},
            {
                "loop": "kdcompress",
                "images_per_second": 2000.0,
                "times_faster": {"median": 2.0, "low": 1.9, "high": 2.1},
                "times_first": {"median": 3.0, "low": None, "high": None},
            },
        )
    ]
    rows = [{**row, "compiled": "off", "peak_mib": None} for row in rows]
    latency = {"median_ms": 0.5, "p90_ms": None, "failed": None, "ratio": None, "device_mib": 12.0, "n": 64}
    good = {"precision": "fp16", "score": 90.0, "parity": {"passed": True}, "latency": latency}
    engines = [{"target": "tensorrt-rtx", "refused": "not on this GPU"}, {"target": "tensorrt", **good}]
    engines.append({"target": "late", **good, "latency": None})
    done = {"status": "done", "why": "", "seconds": 9}
    sections = {"training": {**done, "rows": rows, "left_out": ["none, 224 x 224, batch 64"]}}
    sections["engines"] = {**done, "rows": engines, "source": "patterns", "test_images": 64}
    document = {"begun": "2026-01-01", "tiny": False, "sections": sections}
    (tmp_path / "day.json").write_text(json.dumps(document))
    gpu.main(["--json", str(tmp_path / "day.json"), "--page", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    for text in (
        "1,000",
        "2.00 \\[1.90, 2.10\\]",
        "refused: not on this GPU",
        "no time was left",
        "No time was left for: none, 224",
        "0.500",
    ):
        assert text in page
    assert page.count("Not measured.") == 4 and "trial" not in page
    with pytest.raises(UsageError, match="not the JSON of a day"):
        gpu.main(["--json", str(tmp_path / "nothing.json"), "--page", str(tmp_path / "page.md")])


def test_what_is_carried_is_whole(gpu, tmp_path, monkeypatch):
    """With a wheel from a folder in place of a package registry."""
    from on_gpu import carry

    shop = tmp_path / "shop"
    shop.mkdir()
    with zipfile.ZipFile(shop / "tinything-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinything.py", "")
        wheel.writestr("tinything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        wheel.writestr(
            "tinything-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tinything-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    monkeypatch.setattr(carry, "build_ahead", lambda folder, source, tiny: {"tensorrt-rtx": "student.engine"})
    data = tmp_path / "data"
    data.mkdir()
    (data / "fashion-mnist").mkdir()
    np.save(data / "fashion-mnist/a.npy", np.zeros(1))
    monkeypatch.setattr(carry, "images_of", lambda data, tiny: None)
    asked = ["--tiny", "--data", str(data), "--wheel", "tinything"]
    gpu.main([*asked, "--carry", str(tmp_path / "bag")])
    bag = tmp_path / "bag"
    assert [path.name for path in (bag / "wheels").glob("*.whl")] == ["tinything-1.0-py3-none-any.whl"]
    assert "sh run.sh" in (bag / "README.md").read_text() and "manylinux_2_28_x86_64" in (bag / "README.md").read_text()
    assert "--data ../data" in (bag / "run.sh").read_text() and (bag / "data/fashion-mnist/a.npy").is_file()
    assert subprocess.run(["sh", "-n", bag / "run.sh"]).returncode == 0
    gpu.main(["--tiny", "--no-wheels", "--carry", str(tmp_path / "light")])
    done = subprocess.run(["sh", tmp_path / "light/run.sh", "--help"], env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0 and "venv/bin/python" in (bag / "run.sh").read_text()
    with tarfile.open(bag / "source.tar.gz") as tar:
        names = tar.getnames()
        assert {"source/benchmarks/training.py", "source/setup.py", "source/tests/conftest.py"} <= set(names)
        assert tar.getmember("source/kdcompress/export").issym()
    with pytest.raises(UsageError, match="there already"):
        gpu.main([*asked, "--carry", str(bag)])
    with pytest.raises(KDCompressError, match="pip cannot download"):
        carry.download(["nothing-of-this-name"], bag / "wheels", carry.PLATFORM, carry.PYTHON)


def test_wheels_of_older_systems_are_taken_too(gpu):
    from on_gpu import carry

    found = carry.platforms("manylinux_2_28_x86_64")
    assert found[0] == "manylinux_2_28_x86_64" and {"manylinux_2_17_x86_64", "manylinux2014_x86_64"} <= set(found)
    assert carry.platforms("win_amd64") == ["win_amd64"]
    assert any(each.startswith("torch>=") for each in carry.requirements())
    assert [each for each in carry.requirements() if each.startswith("onnxruntime")] == ["onnxruntime-gpu>=1.20"]
