"""Layers of TensorRT's engines: what is made of the inspector's records and the profiler's reports. Only the last test
needs a GPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export_nets import problem

from kdcompress.errors import RuntimeMissingError
from kdcompress.export.engine_layers import layers_of, read_engine, recorder_of
from kdcompress.export.formats import build, target
from kdcompress.export.layers import readers
from kdcompress.export.runtimes import runners

LINEAR, VECTORS = "Row major linear FP32", "Channel major FP16 format where channel % 8 == 0"


def tensor(name, shape, kind):
    return {"Name": name, "Location": "Device", "Dimensions": shape, "Format/Datatype": kind}


# Written by hand in the structure that NVIDIA documents, not recorded on a GPU: TensorRT 10's, of a copy, a convolution
# with a ReLU, and a matrix product that was fused by the compiler. The metadata separates nodes by \x1e or \x1f.
TEN = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to net.stem + node_relu",
            "LayerType": "Reformat",
            "Inputs": [tensor("x", [1, 1, 16, 16], LINEAR)],
            "Outputs": [tensor("y", [1, 1, 16, 16], VECTORS)],
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            "TacticValue": "0x0",
            "StreamId": 0,
            "Metadata": "",
        },
        {
            "Name": "net.stem + node_relu",
            "LayerType": "CaskConvolution",
            "Inputs": [tensor("y", [1, 1, 16, 16], VECTORS)],
            "Outputs": [tensor("relu", [1, 16, 16, 16], VECTORS)],
            "ParameterType": "Convolution",
            "Kernel": [3, 3],
            "OutMaps": 16,
            "Groups": 1,
            "Weights": {"Type": "Half", "Count": 144},
            "HasReLU": 1,
            "TacticName": "sm80_xmma_fprop",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: net.stem]\x1e[ONNX Layer: node_relu]",
        },
        {
            "Name": "__myl_CastMulAddCast_myl0_1",
            "LayerType": "gemm",
            "Inputs": [tensor("relu", [1, 64], "Int8")],
            "Outputs": [tensor("logits", [1, 4], "Float")],
            "TacticName": "sm80_xmma_gemm",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: net.fc]\x1f[ONNX Layer: cast_of_ours]",
        },
    ],
    "Bindings": ["image", "logits"],
}
# TensorRT 11 splits the key of the type, and describes bindings otherwise.
ELEVEN = json.loads(
    json.dumps({"Layers": TEN["Layers"]}).replace(
        '"Format/Datatype": "Int8"', '"Datatype": "Int8", "Format": "Row major linear (kLINEAR)"'
    )
)
ELEVEN["I/O Tensors"] = [{"Name": "image", "IOMode": "Input", "DataType": "UInt8", "Dimensions": [1, 16, 16, 1]}]

COPY, STEM, FC = (layer["Name"] for layer in TEN["Layers"])
NODES = {"net.stem", "node_relu", "net.fc"}
COUNTED = {"net.stem": 36864, "net.fc": 256}
REPORTED = [[(COPY, 0.25), (STEM, 1.0), (FC, 0.5)], [(COPY, 0.5), (STEM, 2.0), (FC, 0.5)]]


@pytest.mark.parametrize("said", [TEN, ELEVEN], ids=["10", "11"])
def test_what_the_inspector_and_the_profiler_say(said):
    copy, stem, fc = layers_of(said, REPORTED, COUNTED, NODES)
    assert (copy.kind, stem.kind, fc.kind) == ("Reformat", "CaskConvolution", "gemm")
    assert (copy.precision, stem.precision, fc.precision) == ("", "fp16", "int8")
    assert (copy.made_of, stem.made_of, fc.made_of) == ((), ("net.stem", "node_relu"), ("net.fc",))
    assert (copy.macs, stem.macs, fc.macs) == (None, 36864, 256)
    assert stem.shape == (1, 16, 16, 16) and fc.shape == (1, 4)
    assert stem.times.tolist() == [1.0, 2.0] and all(layer.snr_db is None for layer in (copy, stem, fc))


def test_a_query_in_parts_and_layers_that_only_one_of_them_names():
    parts = [[(STEM, 1.0), (STEM, 0.5), ("shuffle", 0.125)], [(STEM, 1.0)]]
    found = {layer.name: layer for layer in layers_of(TEN, parts, COUNTED, NODES)}
    assert found[STEM].times.tolist() == [1.5, 1.0] and found["shuffle"].times.tolist() == [0.125, 0.0]
    assert found[FC].times.tolist() == [0.0, 0.0] and list(found)[-1] == "shuffle"


def test_an_engine_with_names_only():
    stem, fc = layers_of({"Layers": [STEM, "net.fc"]}, [[(STEM, 1.0), ("net.fc", 2.0)]], COUNTED, NODES)
    assert stem.made_of == ("net.stem", "node_relu") and stem.macs == 36864 and stem.precision == ""
    assert fc.made_of == ("net.fc",) and fc.shape == () and fc.kind
    stem, _ = layers_of({"Layers": [STEM, "net.fc"]}, [[]], {}, None)  # without the parent no name is known
    assert stem.made_of == () and stem.times.tolist() == [0.0]


def test_the_recorder_is_a_profiler_of_the_library():
    trt = pytest.importorskip("tensorrt_rtx")
    recorder = recorder_of(trt)
    assert isinstance(recorder, trt.IProfiler)
    recorder.report_layer_time("a", 0.5)
    recorder.report_layer_time("b", 0.25)
    assert recorder.reported == [("a", 0.5), ("b", 0.25)]
    for name in ("profiler", "enqueue_emits_profile"):
        assert hasattr(trt.IExecutionContext, name)


class Pretended:
    """A runner without a GPU: it reports what a context would while it runs."""

    name = "tensorrt"

    def __init__(self, artifact, threads=1):
        self.profiler, self.ran = None, []

    @staticmethod
    def library():
        return SimpleNamespace(IProfiler=object)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def infer(self, x):
        self.ran.append(len(x))
        for name, ms in REPORTED[0] if self.profiler is not None else []:
            self.profiler.report_layer_time(name, ms)

    def report_to(self, profiler):
        self.profiler = profiler

    def information(self, images):
        assert images == 1
        return TEN

    def details(self):
        return {"version": "11.3"}


def test_each_query_runs_with_the_profiler_and_without(trained):
    queries = [trained.spec.prepare(image[None]) for image in problem(6, seed=3)[0]]
    found = read_engine(Pretended, trained.artifact, queries, 1, trained.artifact)
    assert (found.runtime, found.version, found.whole.shape) == ("tensorrt", "11.3", (6,))
    assert [layer.times.tolist() for layer in found.layers] == [[0.25] * 6, [1.0] * 6, [0.5] * 6]
    assert found.layers[1].macs == 36864 and found.layers[1].made_of == ("net.stem", "node_relu")
    assert any("errors are not told" in note for note in found.notes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_an_engine_is_not_read(job):
    pytest.importorskip("tensorrt_rtx")
    artifact = build(job, target("tensorrt-rtx"))
    with pytest.raises(RuntimeMissingError, match="No CUDA device"):
        readers["tensorrt-rtx"](artifact, [job.parent.input.prepare(problem(1, seed=3)[0])], 1, job.parent)
    assert {"tensorrt", "tensorrt-rtx"} <= set(readers) & set(runners)


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-int8", "tensorrt-rtx"])
def test_layers_of_an_engine_on_its_gpu(name, job, trained):
    runners[target(name).runtime].check()
    artifact = build(job, target(name))
    queries = [trained.spec.prepare(image[None]) for image in problem(16, seed=3)[0]]
    found = readers[target(name).runtime](artifact, queries, 1, trained.artifact)
    assert sum(layer.macs or 0 for layer in found.layers) >= max(COUNTED.values())
    assert sum(len(layer.made_of) > 0 for layer in found.layers) and all(layer.shape for layer in found.layers)
    assert all(layer.times.shape == (16,) and np.isfinite(layer.times).all() for layer in found.layers)
    assert 0.01 < np.median(sum(layer.times for layer in found.layers)) / np.median(found.whole) < 20
