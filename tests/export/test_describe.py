"""What `kdcompress inspect` shows of each kind of file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import onnx
import pytest
import torch
from export_nets import problem
from safetensors.torch import save_file

from kdcompress import optional
from kdcompress.artifact import files_of
from kdcompress.errors import RuntimeMissingError, UsageError
from kdcompress.export.describe import artifact_of, contents, describe
from kdcompress.export.formats import ExportJob, build, open_runner, target


def test_onnx(trained):
    found = describe(trained.artifact.path)
    assert found["format"] == "onnx" and found["precision"] == "fp32" and found["sha256"] == trained.artifact.sha256
    assert found["inputs"] == {"image": "uint8 [batch, 16, 16, 1]"}
    assert found["outputs"] == {"logits": "float [batch, 4]"}
    assert found["opset"] == {"ai.onnx": 20} and found["nodes"]["Conv"] == 7 and not found["external_data"]
    assert found["metadata"]["recipe"] == "test" and found["parameters"] > 70_000
    json.dumps(found)


@pytest.mark.parametrize(("name", "precision"), [("x86-vnni", "int8"), ("onnx-fp16", "fp16")])
def test_precision_is_read_from_the_weights(name, precision, job):
    assert describe(build(job, target(name)).path)["precision"] == precision


def test_external_data_is_shown(trained, tmp_path):
    path = tmp_path / "two.onnx"
    onnx.save(onnx.load(trained.artifact.path), path, save_as_external_data=True, location="two.bin", size_threshold=0)
    assert describe(path)["external_data"] == ["two.bin"]


def test_weights(tmp_path):
    tensors = {"fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3, dtype=torch.float16)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"epoch": "3"})
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "a.pt")
    found = describe(tmp_path / "a.safetensors")
    assert found["parameters"] == 15 and found["metadata"] == {"epoch": "3"}
    assert found["tensors"]["fc.weight"] == "f32 [3, 4]"
    found = describe(tmp_path / "a.pt")
    assert found["parameters"] == 15 and found["tensors"]["model.fc.bias"] == "float16 [3]"


@pytest.mark.parametrize("name", ["a.onnx", "a.safetensors", "a.pt", "a.engine", "a.txt"])
def test_other_files_are_refused(name, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        describe(tmp_path / name)
    (tmp_path / name).write_text("hello")
    with pytest.raises(UsageError) as caught:
        describe(tmp_path / name)
    assert name in str(caught.value)


def test_a_pickled_module_is_not_executed(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UsageError, match="weights alone"):
        describe(tmp_path / "module.pt")


def test_an_onnx_file_of_another_tool_has_no_spec(trained, tmp_path):
    model = onnx.load(trained.artifact.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="does not say what its input is"):
        artifact_of(tmp_path / "other.onnx")


FORMATS = {  # target -> (packages, format, what shows that it was read)
    "android-ort": (
        (),
        "ort",
        lambda found: found["precision"] == "int8" and any("QLinear" in o for o in found["operators"]),
    ),
    "openvino-fp16": (("openvino",), "openvino", lambda found: found["precision"] == "fp16"),
    "android-xnnpack-fp32": (
        ("executorch",),
        "executorch",
        lambda found: (
            found["methods"]["forward"]["delegates"] == {"XnnpackBackend": 1}
            and found["methods"]["forward"]["inputs"] == ["uint8 [1, 16, 16, 1]"]
        ),
    ),
    "litert-fp32": (("litert_torch",), "litert", lambda found: found["precision"] == "fp32" and found["metadata"]),
    "mnn-fp32": (("MNN",), "mnn", lambda found: True),
    "ncnn-fp32": (("ncnn", "pnnx"), "ncnn", lambda found: True),
    "ios-coreml": (("coremltools",), "coreml", lambda found: found["metadata"]["kdcompress.precision"] == "fp16"),
}


SLOW = ("ios-coreml", "android-xnnpack-fp32")  # to write and to read
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FORMATS]


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory):
    """An artefact of a format, built when first asked for."""
    folder = tmp_path_factory.mktemp("formats")
    job = ExportJob(trained.module, trained.artifact, problem(64, seed=2)[0], folder, "student")
    made = {}

    def get(name):
        for package in FORMATS[name][0]:
            pytest.importorskip(package)
        if name not in made:
            made[name] = build(job, target(name))
        return made[name]

    return get


@pytest.mark.parametrize("name", EACH)
def test_every_format_is_shown(name, built):
    artifact, (_, format, shown) = built(name), FORMATS[name]
    found = describe(artifact.path)
    assert (found["format"], found["bytes"], found["sha256"]) == (format, artifact.bytes, artifact.sha256)
    assert shown(found)
    if "coverage" in found:  # as the writer has it
        assert found["coverage"] == artifact.provenance["coverage"]
        assert sum(found["coverage"]["conv"].values()) == 7
    json.dumps(found)


@pytest.mark.parametrize("name", EACH)
def test_a_damaged_file_is_refused(name, built, tmp_path):
    source = built(name).path
    path = tmp_path / source.name
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
    largest = max(files_of(path), key=lambda part: part.stat().st_size)
    for part in files_of(path) if name in ("ios-coreml", "ncnn-fp32") else [largest]:
        part.write_bytes(b"hello")
    with pytest.raises(UsageError) as caught:
        describe(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("name", [each for each in EACH if each != "android-ort"])
def test_without_the_package_that_reads_it(name, built, monkeypatch):
    path = built(name).path
    monkeypatch.setattr(optional, "is_installed", lambda module: False)

    def absent(module, *args):
        raise ModuleNotFoundError(f"No module named {module!r}")

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(RuntimeMissingError, match="pip install 'kdcompress"):
        contents(path)


def test_the_record_beside_an_artefact(trained, tmp_path):
    path = tmp_path / "student.onnx"
    shutil.copyfile(trained.artifact.path, path)
    record = tmp_path / "student.onnx.json"
    record.write_text(json.dumps(trained.artifact.to_json()))
    found = describe(record)
    assert found["format"] == "record" and found["artefact"]["state"] == "as recorded"
    assert found["artefact"]["sha256"] == trained.artifact.sha256
    path.write_bytes(path.read_bytes()[:-1])
    assert "not the one that was recorded" in describe(record)["artefact"]["state"]
    for text in ("{}", "[1]", "{"):
        record.write_text(text)
        with pytest.raises(UsageError):
            describe(record)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(UsageError, match="This kind of folder cannot be inspected"):
        describe(tmp_path)


def test_a_missing_file_of_weights(trained, tmp_path):
    """ONNX with its weights beside it; those of kdcompress are one file."""
    path = tmp_path / "two.onnx"
    onnx.save(onnx.load(trained.artifact.path), path, save_as_external_data=True, location="two.bin", size_threshold=0)
    (tmp_path / "two.bin").unlink()
    with pytest.raises(UsageError, match="(?s)weights is missing.*'two.bin'") as caught:
        describe(path)
    assert "copy both files together" in str(caught.value)
    with pytest.raises(UsageError, match="weights is missing"), open_runner(replace(trained.artifact, path=path)):
        pass
