"""Files that kdcompress did not make: what their input is taken to be, and which are refused."""

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto as Kind
from onnx import helper

from kdcompress.artifact import Artifact
from kdcompress.errors import UsageError
from kdcompress.export.foreign import foreign_artifact
from kdcompress.export.formats import open_runner
from kdcompress.export.graph import load, metadata
from kdcompress.runner import infer_all

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


def model(path, shape, kind=Kind.FLOAT, inputs=1, transposed=False):
    """The mean of each channel, as floats."""
    values = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i in range(inputs)]
    axes = onnx.numpy_helper.from_array(np.array([1, 2] if transposed else [2, 3]), "axes")
    nodes = [
        helper.make_node("Cast", ["x0"], ["cast"], to=Kind.FLOAT),
        helper.make_node("ReduceMean", ["cast", "axes"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "g", values, [helper.make_tensor_value_info("y", Kind.FLOAT, ["N", 3])], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    "shape, kind, layout, batch, scale",
    [
        (["N", 3, 6, 8], Kind.FLOAT, "float-nchw", None, 255),
        ([1, 3, 6, 8], Kind.FLOAT, "float-nchw", 1, 255),
        (["N", 6, 8, 3], Kind.FLOAT, "float-nhwc", None, 255),
        ([2, 3, 6, 8], Kind.FLOAT16, "half-nchw", 2, 255),
        (["N", 6, 8, 3], Kind.FLOAT16, "half-nhwc", None, 255),
        (["N", 3, 6, 8], Kind.UINT8, "uint8-nchw", None, 1),
        (["N", 6, 8, 3], Kind.UINT8, "uint8-nhwc", None, 1),
    ],
)
def test_an_onnx_file_of_any_image_like_input_runs(tmp_path, shape, kind, layout, batch, scale):
    path = model(tmp_path / "a.onnx", shape, kind, transposed=layout.endswith("nhwc"))
    artifact = foreign_artifact(path)
    spec = artifact.input
    assert (spec.height, spec.width, spec.channels, spec.layout, spec.batch) == (6, 8, 3, layout, batch)
    assert (spec.name, spec.outputs[0].name, spec.classes) == ("x0", "y", 3) and artifact.format == "onnx"
    with open_runner(artifact) as runner:
        (means,) = infer_all(runner, IMAGES, spec)
    assert np.allclose(means, IMAGES.mean((1, 2)) / scale, rtol=2e-3)


@pytest.mark.parametrize(
    "shape, kind, inputs, words",
    [
        ([1, 10], Kind.FLOAT, 1, "not an image"),
        ([1, 7, 6, 8], Kind.FLOAT, 1, "not an image"),
        ([1, 3, 6, 8], Kind.DOUBLE, 1, "double"),
        ([1, 3, 6, 8], Kind.FLOAT, 2, "2 inputs (x0, x1)"),
        ([1, 3, "height", "width"], Kind.FLOAT, 1, "any size"),
    ],
)
def test_other_inputs_are_refused_with_what_they_are(tmp_path, shape, kind, inputs, words):
    path = model(tmp_path / "a.onnx", shape, kind, inputs)
    with pytest.raises(UsageError) as error:
        foreign_artifact(path)
    assert words in str(error.value) and "a.onnx" in str(error.value)


@pytest.mark.parametrize("name", ["a.mnn", "a.engine", "a.txt", "folder"])
def test_what_says_too_little_about_itself_is_refused(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_bytes(b"")
    with pytest.raises(UsageError, match="does not say what its input is"):
        foreign_artifact(path)


@pytest.mark.parametrize("name", ["a.onnx", "a.ort", "a.pte", "a.tflite"])
def test_a_damaged_file_is_refused(tmp_path, name):
    for package in {"a.pte": ["executorch"], "a.tflite": ["ai_edge_litert"]}.get(name, []):
        pytest.importorskip(package)
    (tmp_path / name).write_bytes(b"hello")
    with pytest.raises(UsageError):
        foreign_artifact(tmp_path / name)


def test_an_int8_file_is_known_for_one(trained, tmp_path):
    from kdcompress.export.formats import ExportJob, build, target

    size = trained.spec.height, trained.spec.width, trained.spec.channels
    images = np.random.default_rng(0).integers(0, 256, (64, *size), dtype=np.uint8)
    made = build(ExportJob(trained.module, trained.artifact, images, tmp_path, "s"), target("x86-vnni"))
    stripped = load(made.path)
    del stripped.metadata_props[:]
    onnx.save(stripped, tmp_path / "bare.onnx")
    assert not metadata(load(tmp_path / "bare.onnx"))
    found = foreign_artifact(tmp_path / "bare.onnx")
    assert found.precision == "int8"
    assert (found.input.height, found.input.layout) == (trained.spec.height, trained.spec.layout)


@pytest.mark.parametrize(
    "wanted, package",
    [
        pytest.param("executorch", "executorch", marks=pytest.mark.slow),
        pytest.param("litert", "litert_torch", marks=pytest.mark.slow),
        ("openvino", "openvino"),
        ("ort", "onnxruntime"),
    ],
)
def test_files_of_other_formats_without_their_record_run(trained, tmp_path, wanted, package):
    from kdcompress.export.formats import ExportJob, build, targets

    pytest.importorskip(package)
    chosen = max((t for t in targets().values() if t.format == wanted), key=lambda t: t.precision == "fp32")
    size = trained.spec.height, trained.spec.width, trained.spec.channels
    images = np.random.default_rng(0).integers(0, 256, (16, *size), dtype=np.uint8)
    made = build(ExportJob(trained.module, trained.artifact, images, tmp_path / "made", "s"), chosen)
    bare = tmp_path / made.path.name
    shutil.copytree(made.path, bare) if made.path.is_dir() else shutil.copyfile(made.path, bare)
    found = foreign_artifact(bare)
    assert isinstance(found, Artifact) and found.format == made.format
    assert (found.input.height, found.input.width, found.input.channels) == size
    with open_runner(made) as runner:
        (expected,) = infer_all(runner, images, made.input)
    with open_runner(found) as runner:
        assert np.array_equal(infer_all(runner, images, found.input)[0], expected)
