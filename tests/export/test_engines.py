"""TensorRT-RTX engines, really built; nothing here needs a GPU."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export.describe import describe
from kdcompress.export.formats import Options, build, open_runner, target
from kdcompress.export.tensorrt_builder import build_engine

trt = pytest.importorskip("tensorrt_rtx")
OPTIONS = target("tensorrt-rtx").options


def test_an_fp16_engine_is_fp16(job):
    artifact = build(job, target("tensorrt-rtx"))
    found = artifact.provenance["coverage"]
    assert found["conv"] == {"fp16": 7, "fp32": 0} and found["gemm"] == {"fp16": 1, "fp32": 0}
    assert artifact.provenance["inputs"] == {"image": "UINT8"} and artifact.provenance["profile"] == [1, 8, 32]
    facts = describe(artifact.path)
    assert facts["format"] == "tensorrt-rtx" and facts["bytes_in_header"] == artifact.bytes
    assert artifact.provenance["versions"]["tensorrt_rtx"].startswith(facts["version"].rsplit(".", 1)[0])


def test_an_fp32_engine_is_fp32_and_bigger(job):
    half = build(job, target("tensorrt-rtx"))
    full = build(job, target("tensorrt-rtx").model_copy(update={"precision": "fp32"}))
    assert full.provenance["coverage"]["conv"] == {"fp16": 0, "fp32": 7}
    assert full.bytes > half.bytes


def test_a_fixed_batch_needs_no_profile(fixed, job):
    job.module, job.parent = fixed.module, fixed.artifact
    artifact = build(job, target("tensorrt-rtx"))
    assert artifact.provenance["profile"] is None and artifact.provenance["inputs"] == {"image": "FLOAT"}


@pytest.mark.parametrize("content", [b"", b"hello", b"\n"])
def test_what_is_no_onnx_file_is_refused(content, tmp_path):
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a valid ONNX model"):
        build_engine(trt, path, OPTIONS, dynamic=False)


def test_every_operator_that_the_parser_refuses_is_named(tmp_path):
    shift = helper.make_node("BitShift", ["a", "a"], ["b"], name="first shift", direction="LEFT")
    det = helper.make_node("Det", ["c"], ["d"], name="the determinant")
    graph = helper.make_graph(
        [shift, det],
        "bad",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, [2]),
            helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 2]),
        ],
        [
            helper.make_tensor_value_info("b", TensorProto.UINT8, [2]),
            helper.make_tensor_value_info("d", TensorProto.FLOAT, []),
        ],
    )
    path = tmp_path / "bad.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(KDCompressError) as caught:
        build_engine(trt, path, OPTIONS, dynamic=False)
    assert "first shift (BitShift)" in str(caught.value) and "the determinant (Det)" in str(caught.value)


def test_an_unknown_compute_capability_lists_the_known(job):
    wrong = target("tensorrt-rtx").model_copy(update={"options": Options(compute_capabilities=("9.0",))})
    with pytest.raises(UsageError, match="8.6, 8.9, 12.0"):
        build(job, wrong)
    assert not list(job.folder.iterdir())


def test_a_damaged_engine(job):
    path = build(job, target("tensorrt-rtx")).path
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UsageError, match="cut off"):
        describe(path)


def test_without_a_gpu_it_is_built_and_not_run(job):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    artifact: Artifact = build(job, target("tensorrt-rtx"))
    with pytest.raises(RuntimeMissingError, match="No CUDA device"):
        open_runner(artifact)
