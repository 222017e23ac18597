"""TensorRT-RTX engines, really built; nothing here needs a GPU."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from export_nets import problem
from onnx import TensorProto, helper
from pydantic import ValidationError

from kdcompress.artifact import Artifact
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError
from kdcompress.export import graph
from kdcompress.export.describe import describe
from kdcompress.export.formats import Options, Target, build, open_runner, target
from kdcompress.export.tensorrt_builder import build_engine, engine_source, kept_log
from kdcompress.export.tensorrt_engine import as_built, hold_to, refit
from kdcompress.export.to_onnx import export_onnx
from kdcompress.parity import parity

trt = pytest.importorskip("tensorrt_rtx")
OPTIONS = target("tensorrt-rtx").options
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def tensorrt_source(job, path):
    graph.save(engine_source(job, target("tensorrt")), path)
    return path


def with_options(name, **options):
    named = target(name)
    return Target(**{**named.model_dump(), "options": {**named.options.model_dump(), **options}})


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


def test_an_int8_engine_multiplies_int8(job, trained):
    """Bigger than fp16's, as RTX 1.7 builds it: fp16 stays RTX's default."""
    artifact = build(job, target("tensorrt-rtx-int8"))
    found = artifact.provenance["coverage"]
    assert found["conv"] == {"fp16": 0, "fp32": 0, "int8": 7} and found["gemm"] == {"fp16": 0, "fp32": 0, "int8": 1}
    assert found["outputs"]["fp16"] > 2 * found["outputs"]["int8"]  # what is not quantised
    assert artifact.provenance["scheme"]["symmetric"] and artifact.provenance["calibration_images"] == 256
    assert artifact.bytes > build(job, target("tensorrt-rtx")).bytes


@pytest.mark.parametrize("name", ["tensorrt-int8", "jetson-orin-int8", "tensorrt-rtx-int8"])
def test_the_int8_network_answers_as_its_parent(name, job, trained, tmp_path):
    """Run by ONNX Runtime: the engine's source, with what only layers take quantised, and no cast in between."""
    path = tmp_path / "source.onnx"
    model = engine_source(job, target(name))
    graph.save(model, path)
    makers = {output: node for node in model.graph.node for output in node.output}
    layers = [node for node in model.graph.node if node.op_type in graph.LAYERS]
    assert all(makers[tensor].op_type == "DequantizeLinear" for node in layers for tensor in node.input[:2])
    users = {node.op_type for node in model.graph.node if makers.get(node.input[0]) in layers}
    assert "QuantizeLinear" not in users  # what a layer gives is not rounded before the addition or the ReLU
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    zeros = [values[n.input[2]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros and all(zero.dtype == "int8" and not zero.any() for zero in zeros)
    artifact = Artifact.of(path, "onnx", "int8", trained.spec)
    with open_runner(job.parent) as parent, open_runner(artifact) as runner:
        assert parity(parent, runner, problem(300, seed=3)[0], trained.spec, "int8")


def test_a_layer_that_is_left_in_float_is_counted_so(job):
    layer = next(node.name for node in graph.load(job.parent.path).graph.node if node.op_type == "Gemm")
    scheme = target("tensorrt-rtx-int8").options.scheme.model_copy(update={"exclude": (layer,)})
    found = build(job, with_options("tensorrt-rtx-int8", scheme=scheme)).provenance["coverage"]
    assert found["gemm"] == {"fp16": 1, "fp32": 0} and found["conv"]["int8"] == 7


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


@without_gpu
def test_without_a_gpu_it_is_built_and_not_run(job):
    artifact: Artifact = build(job, target("tensorrt-rtx"))
    with pytest.raises(RuntimeMissingError, match="No CUDA device"):
        open_runner(artifact)


@pytest.mark.parametrize("option", [{"version_compatible": True}, {"hardware_compatibility": "ampere_plus"}])
def test_what_rtx_engines_do_not_offer_is_refused_with_the_target(option):
    with pytest.raises(ValidationError, match="is for tensorrt, and format is tensorrt-rtx"):
        with_options("tensorrt-rtx", **option)


@without_gpu
def test_an_rtx_engine_that_takes_weights_is_refused_before_it_is_built(job):
    with pytest.raises(RuntimeMissingError, match="only on an NVIDIA GPU"):
        build(job, with_options("tensorrt-rtx", refit=True))
    assert not list(job.folder.iterdir())


@without_gpu
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version_compatible": True}, "libnvinfer_lean"),  # the runtime that such an engine carries; RTX has none
        ({"refit": True}, "CUDA_SUCCESS"),
    ],
)
def test_the_options_reach_the_builder(options, words, job, tmp_path):
    """RTX without a GPU cannot honour them: that it says so shows that they were set."""
    path = tensorrt_source(job, tmp_path / "source.onnx")
    with pytest.raises(KDCompressError, match=words):
        build_engine(trt, path, Options(**options), dynamic=True)


@pytest.mark.parametrize("level", ["ampere_plus", "same_compute_capability"])
def test_hardware_compatibility_reaches_the_builder(level, job, tmp_path):
    path = tensorrt_source(job, tmp_path / "source.onnx")
    options = Options(hardware_compatibility=level, compute_capabilities=("8.6",))
    assert any("setHardwareCompatibilityLevel" in line for line in build_engine(trt, path, options, dynamic=True).log)


# As the inspector of TensorRT 10 writes a convolution, and that of 11, whose key is split.
CONVOLUTION = """{"Name": "stem", "LayerType": "CaskConvolution",
 "Inputs": [{"Name": "x", "Dimensions": [8, 16, 28, 28], "Format/Datatype": "%s"}],
 "Outputs": [{"Name": "y", "Dimensions": [8, 16, 28, 28], "Format/Datatype": "%s"}],
 "Weights": {"Type": "%s", "Count": 2304}, "TacticName": "sm80_xmma_fprop_implicit_gemm"}"""
SPLIT = """{"Name": "stem", "LayerType": "gemm", "Inputs": [{"Name": "x", "Datatype": "%s", "Format": "linear"}],
 "Outputs": [{"Name": "y", "Datatype": "%s", "Format": "linear"}]}"""
REFORMAT = """{"Name": "copy", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
 "Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}"""


def layers(*texts):
    return {"Layers": [json.loads(text) for text in texts]}


def test_layers_are_counted_by_the_narrowest_type_as_built():
    half = CONVOLUTION % ("Channel major FP16 format", "Half", "Half")
    whole = CONVOLUTION % ("Row major linear FP32", "Float", "Float")
    eight = CONVOLUTION % ("Thirty-two wide channel vectorized row major Int8 format", "Half", "Int8")
    counts = as_built(layers(half, whole, eight, REFORMAT, SPLIT % ("Half", "Float")))
    assert counts == {"fp16": 2, "fp32": 1, "int8": 1}
    for precision in ("fp16", "int8"):
        hold_to(precision, counts)
    with pytest.raises(KDCompressError, match="not fp32 as built"):
        hold_to("fp32", counts)
    with pytest.raises(KDCompressError, match="not int8 as built"):
        hold_to("int8", as_built(layers(half, whole)))
    with pytest.raises(KDCompressError, match="not fp16 as built"):  # an fp32 engine that was asked for in fp16
        hold_to("fp16", as_built(layers(whole, REFORMAT)))
    hold_to("fp32", as_built(layers(whole)))
    assert as_built({"Layers": ["stem", "head"]}) == {}  # built with layer names only: no type to go by


def test_weights_for_an_engine_are_an_onnx_file(job, tmp_path):
    engine = build(job, target("tensorrt-rtx")).path.read_bytes()
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UsageError, match="not a valid ONNX model"):
        refit(trt, engine, tmp_path / "text.onnx", kept_log(trt))
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="cannot load this engine"):
            refit(trt, engine, job.parent.path, kept_log(trt))


def test_what_is_called_where_there_is_a_gpu_exists():
    """The interface of TensorRT 10.12 to 11 is this one: these calls are made only where an engine loads."""
    calls = {
        "Runtime": ["deserialize_cuda_engine", "engine_host_code_allowed"],
        "ICudaEngine": ["create_engine_inspector", "create_execution_context", "create_serialization_config"],
        "EngineInspector": ["get_engine_information", "execution_context"],
        "Refitter": ["get_missing_weights", "refit_cuda_engine"],
        "OnnxParserRefitter": ["refit_from_file", "num_errors", "get_error"],
    }
    assert all(hasattr(getattr(trt, kind), name) for kind, names in calls.items() for name in names)
    for name in ("refittable", "hardware_compatibility_level", "num_optimization_profiles", "serialize_with_config"):
        assert hasattr(trt.ICudaEngine, name)
    assert {"EXCLUDE_WEIGHTS", "INCLUDE_REFIT"} <= set(trt.SerializationFlag.__members__)
    assert "JSON" in trt.LayerInformationFormat.__members__


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_takes_the_weights_of_another_training(precision, job, trained, tmp_path):
    import tensorrt

    asked = with_options("tensorrt", refit=True).model_copy(update={"precision": precision})
    artifact = build(job, asked)
    assert artifact.provenance["engine"]["refittable"] and artifact.provenance["gpu"]["compute_capability"]
    with torch.no_grad():
        trained.module.net.fc.weight.neg_()
        parent = export_onnx(trained.module, trained.spec, tmp_path / "again.onnx")
        trained.module.net.fc.weight.neg_()
    job.parent = parent
    graph.save(engine_source(job, asked), tmp_path / "weights.onnx")
    log = kept_log(tensorrt)
    path = tmp_path / "again.trt.engine"
    path.write_bytes(refit(tensorrt, artifact.path.read_bytes(), tmp_path / "weights.onnx", log))
    x = trained.spec.prepare(problem(8, seed=3)[0])
    with (
        open_runner(parent) as reference,
        open_runner(Artifact.of(path, "tensorrt", precision, trained.spec)) as runner,
    ):
        np.testing.assert_allclose(runner.infer(x)[0], reference.infer(x)[0], rtol=0.05, atol=0.05)
