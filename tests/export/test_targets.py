"""The table of targets: every one that is shipped is built, checked and, where it can be, run."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from export_nets import problem

from kdcompress import optional
from kdcompress.artifact import Artifact, files_of, replacing
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export.formats import availability, build, chosen, open_runner, runners, target, targets
from kdcompress.parity import parity
from kdcompress.pipelines.verdict import not_as_asked

# Without a GPU the package is of no use, and what is said is where to build and what can be built here.
NO_TENSORRT = (
    r"pip install 'kdcompress\[tensorrt\]'"
    if torch.cuda.is_available()
    else "No CUDA device(.*\n)*.*tensorrt-rtx builds"
)
GOOD = """
description: a target of one's own
format: onnx
precision: int8
runtime: onnxruntime-cpu
options: {scheme: {activation: uint8, images: 64}}
cpus: [x86_64]
measured_on: here
"""


@pytest.mark.parametrize("name", targets())
def test_every_target_builds_runs_and_agrees(name, job, trained):
    found = target(name)
    can_build, can_run, why, hint = availability(found)
    if not can_build:
        assert why and hint
        with pytest.raises(RuntimeMissingError):
            build(job, found)
        pytest.skip(why)
    artifact = build(job, found)
    assert artifact.path.parent == job.folder
    assert sum(part.stat().st_size for part in files_of(artifact.path)) == artifact.bytes
    assert (artifact.target, artifact.format, artifact.precision) == (name, found.format, found.precision)
    assert artifact.provenance["parent"] == trained.artifact.sha256 and artifact.provenance["build_seconds"] > 0
    assert artifact.provenance["versions"]
    assert not_as_asked(found.precision, artifact.provenance["coverage"]) is None
    assert Artifact.from_json(json.loads(json.dumps(artifact.to_json())), job.folder) == artifact
    assert [path.name for path in job.folder.iterdir()] == [artifact.path.name]
    if not can_run:
        assert why and hint
        with pytest.raises(RuntimeMissingError, match=re.escape(why.split(" (")[0])):
            open_runner(artifact)
        return
    with open_runner(trained.artifact) as parent, open_runner(artifact) as runner:
        assert parity(parent, runner, problem(300, seed=3)[0], trained.spec, found.precision)
        assert runner.details()["version"]


def test_targets_are_listed_without_heavy_imports():
    code = (
        "import sys; from kdcompress.export.formats import targets; assert targets();"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt_rtx', 'tensorrt') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_target_from_a_file(job, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    artifact = build(job, target(str(path)))
    assert artifact.target == "mine" and artifact.path.name == "student-mine.onnx"
    assert artifact.provenance["calibration_images"] == 64


def test_a_target_has_a_plain_name(tmp_path):
    path = tmp_path / "my target (1) é.yaml"
    path.write_text(GOOD)
    assert target(str(path)).name == "my-target-1-e"  # of folders and files
    path.write_text(GOOD + "name: ../../up")
    with pytest.raises(UsageError, match="name: .*should match pattern"):
        target(str(path))


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'x86-vnni'"):
        target("x86-vni")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("precision: int8", "precison: int8"), "precison: unknown key"),
        (("precision: int8", "precision: int4"), "precision: .*int4"),
        (("activation: uint8", "activation: u8"), "options.scheme.activation: .*u8"),
        (("images: 64", "images: 0"), "options.scheme.images"),
        (("precision: int8", "precision: fp16"), "goes with precision int8"),
        (("format: onnx", "format: onx"), "did you mean 'onnx-int8'"),
        (("runtime: onnxruntime-cpu", "runtime: onnxruntime_cpu"), "did you mean 'onnxruntime-cpu'"),
        (("runtime: onnxruntime-cpu", "runtime: litert"), "does not load.*\n.*\n.*litert\n.*allowed: onnxruntime-c"),
        (("{scheme", "{profile: [8, 4, 32], scheme"), "options.profile: a profile is"),
        (("{scheme", "{platform: arm, scheme"), "options.platform arm is for arm64"),
        (("{scheme", "{refit: true, scheme"), "options.refit is for tensorrt and tensorrt-rtx, and format is onnx"),
        (("{scheme", "{hardware_compatibility: all, scheme"), "options.hardware_compatibility: .*all"),
        (("{scheme", "{scheme: {"), "not valid YAML"),
        ((GOOD, "- a\n- list"), "mapping"),
    ],
)
def test_a_mistake_in_a_target_is_explained(change, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(UsageError, match=words) as caught:
        target(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_of_a_target(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        target(str(tmp_path / "none.yaml"))


def test_a_missing_runtime_names_the_extra(monkeypatch, trained, job):
    def absent(name, *args):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    for name, words in (("tensorrt-rtx", r"pip install 'kdcompress\[tensorrt-rtx\]'"), ("tensorrt", NO_TENSORRT)):
        with pytest.raises(RuntimeMissingError, match=words):
            build(job, target(name))
        assert availability(target(name))[:2] == (False, False)
    artifact = Artifact.of(trained.artifact.path, "tensorrt-rtx", "fp16", trained.spec)
    with pytest.raises(RuntimeMissingError, match="tensorrt-rtx"):
        open_runner(artifact)


def test_an_unknown_format_has_no_runner(trained):
    with pytest.raises(UsageError, match="No runtime here loads"):
        open_runner(Artifact.of(trained.artifact.path, "tflite", "int8", trained.spec))


def test_a_failed_build_leaves_nothing(job, monkeypatch):
    job.calibration = np.empty((0, 16, 16, 1), np.uint8)
    with pytest.raises(KDCompressError, match="too few calibration images"):
        build(job, target("x86-vnni"))
    assert not list(job.folder.iterdir())


def test_replacing_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_auto_is_all_that_this_machine_runs_and_is_timed_on():
    found = chosen(["auto"])
    assert {"x86-vnni", "arm64-dotprod"} - {each.name for each in found}  # no machine is both
    assert all(each.timed_here and availability(each)[:2] == (True, True) for each in found)
    assert "onnx-fp16" in {each.name for each in found}
    both = chosen(["arm64-dotprod", "auto"])
    assert [each.name for each in both].count("arm64-dotprod") == 1 and len(both) >= len(found)


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"avx2", "avx512_vnni"}, {"x86-vnni", "x86-avx2", "onnx-fp16"}),
        ("AMD64", {"avx2"}, {"x86-avx2", "onnx-fp16"}),
        ("aarch64", {"asimddp"}, {"arm64-dotprod", "onnx-fp16"}),
        ("arm64", set(), {"onnx-fp16"}),
    ],
)
def test_a_target_is_timed_on_the_machine_that_it_is_made_for(machine, flags, expected, monkeypatch):
    monkeypatch.setattr("kdcompress.export.formats.platform.machine", lambda: machine)
    monkeypatch.setattr("kdcompress.bench.machine.cpu_flags", lambda: flags)
    asked = ("x86-vnni", "x86-avx2", "arm64-dotprod", "browser-wasm", "onnx-fp16")
    assert {name for name in asked if target(name).timed_here} == expected


def accelerated(tmp_path, runtime="onnxruntime-cuda"):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("onnxruntime-cpu", runtime))
    return target(str(path))


def test_an_execution_provider_that_is_not_here_is_named(job, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    found = accelerated(tmp_path)
    assert availability(found)[:2] == (True, False)
    artifact = build(job, found)
    with pytest.raises(
        RuntimeMissingError, match="no CUDAExecutionProvider here.*\n.*got: .*CPU(.*\n)*.*onnxruntime-gpu"
    ):
        open_runner(artifact)
    same = Artifact.of(artifact.path, "onnx", "int8", artifact.input)  # one that names no runtime runs on the CPU
    with open_runner(same) as runner:
        assert runner.details()["providers"] == ["CPUExecutionProvider"]


def test_an_execution_provider_that_is_here_is_used(job, tmp_path, monkeypatch):
    """The one that CPU wheels have besides the CPU's own: it computes nothing on this machine itself."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has none besides the CPU's")
    artifact = build(job, accelerated(tmp_path))
    runner = runners["onnxruntime-cuda"]
    monkeypatch.setattr(runner, "accelerator", "AzureExecutionProvider")
    with runner(artifact) as opened:
        assert opened.details()["providers"] == ["AzureExecutionProvider", "CPUExecutionProvider"]
        assert opened.infer(problem(3, seed=3)[0])[0].shape == (3, 4)
    monkeypatch.setattr(runner, "accelerator", "CUDAExecutionProvider")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(KDCompressError, match="does not use CUDAExecutionProvider"), runner(artifact):
            pass
