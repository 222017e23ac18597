"""What `kdcompress inspect` shows of each kind of file."""

from __future__ import annotations

import json

import onnx
import pytest
import torch
from safetensors.torch import save_file

from kdcompress.errors import UsageError
from kdcompress.export.describe import artifact_of, describe
from kdcompress.export.formats import build, target


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
