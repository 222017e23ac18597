"""The bill of materials is CycloneDX, and the same for the same files."""

import hashlib
import json

import pytest

from kdcompress.pipelines import sbom
from kdcompress.pipelines.bundle.kinds import KINDS


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "student.onnx").write_bytes(b"a model")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "weights é.bin").write_bytes(b"its weights")
    return tmp_path


def model_of(kind, version="1.2.3+cpu"):
    install = " ".join(["pip install", kind.package, "numpy", *kind.also.split()])
    facts = {"name": "demo", "file": "student.onnx", "format": "onnx", "precision": "fp32", "kdcompress": "0.1.0"}
    facts |= {"sha256": hashlib.sha256(b"a model").hexdigest(), "recipe_hash": "0" * 64}
    return facts | {"runtime": {"version": version, "install": install}}


@pytest.mark.parametrize("name", KINDS, ids="of {}".format)  # "tensorrt" alone is a mark
def test_it_is_valid(name, folder):
    kind = KINDS[name]
    text = json.dumps(sbom.document(folder, model_of(kind), kind.licence, "1.30.0", None))
    found = json.loads(text)
    named = {each["name"]: each for each in found["components"]}
    assert {"student.onnx", "parts/weights é.bin", kind.package, "numpy", "onnxruntime-web"} <= set(named)
    assert named["student.onnx"]["hashes"][0]["content"] == hashlib.sha256(b"a model").hexdigest()
    assert kind.licence in named[kind.package]["licenses"][0]["license"].values()
    assert text == json.dumps(sbom.document(folder, model_of(kind), kind.licence, "1.30.0", None))
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    error = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    assert error is None, error


def test_other_files_are_another_bill(folder):
    kind = KINDS["onnx"]
    first = sbom.document(folder, model_of(kind, None), kind.licence, None, "MIT")
    (folder / "student.onnx").write_bytes(b"another")
    assert (
        sbom.document(folder, model_of(kind, None), kind.licence, None, "MIT")["serialNumber"] != first["serialNumber"]
    )
