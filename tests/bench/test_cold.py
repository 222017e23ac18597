"""Cold starts are real processes, with a real runtime."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import pytest

from kdcompress.artifact import Artifact, InputSpec
from kdcompress.bench import cold
from kdcompress.bench.machine import peak_rss_mib
from kdcompress.bench.record import Interrupted
from kdcompress.export.formats import open_runner

SPEC = InputSpec(4, 4, 1, (0.5,), (0.5,), ("a", "b"))
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)


def tiny(path):
    kind, helper = onnx.TensorProto, onnx.helper
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=kind.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", kind.UINT8, ["N", 4, 4, 1])
    logits = helper.make_tensor_value_info("logits", kind.FLOAT, ["N", 2])
    weight = onnx.numpy_helper.from_array(np.ones((16, 2), np.float32), "weight")
    graph = helper.make_graph(nodes, "tiny", [image], [logits], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    artifact = Artifact.of(path, "onnx", "fp32", SPEC)
    path.with_name(path.name + ".json").write_text(json.dumps(artifact.to_json()))
    return artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("cold") / "tiny.onnx")


def test_the_signal_that_ended_a_process_is_told(artifact, monkeypatch):
    died = subprocess.CompletedProcess([], -11, b"", b"")
    monkeypatch.setattr(cold.subprocess, "run", lambda *_, **__: died)
    records = cold.measure({"tiny": artifact}, IMAGES, open_runner, 1, "rapid")
    assert records["tiny"].failed == "the process ended with signal 11 (SIGSEGV): no message"


def test_each_query_is_a_process_that_imports_loads_and_answers(artifact, monkeypatch, tmp_path):
    monkeypatch.setitem(cold.QUERIES, "rapid", 2)
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    broken = replace(artifact, path=text)
    shares = []
    records = cold.measure(
        {"tiny": artifact, "broken": broken}, IMAGES, open_runner, 1, "rapid", 0,
        lambda share, what: shares.append(what), "tiny",
    )  # fmt: skip
    tiny = records["tiny"]
    assert tiny.n == 2 and tiny.failed is None and tiny.scenario == "cold-start"
    assert tiny.load_ms > 1 and tiny.first_call_ms > 0  # ONNX Runtime's import is in it
    assert np.mean(tiny.samples_ms) == pytest.approx(tiny.load_ms + tiny.first_call_ms, rel=0.01)
    assert tiny.process_ms > tiny.load_ms + tiny.first_call_ms
    assert tiny.peak_rss_mib > tiny.load_rss_mib > 1
    assert tiny.runtime["runtime"] == "onnxruntime-cpu"
    assert records["broken"].n == 0 and "ended with exit status 1" in records["broken"].failed
    assert shares.count("cold start 1 of tiny") == 1


def padded(artifact, path, mib):
    """The same model with so many MiB of weights besides, that nothing uses."""
    model = onnx.load(artifact.path)
    weights = np.random.default_rng(0).integers(0, 256, mib * 2**20, dtype=np.uint8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "unused"))
    onnx.save(model, path)
    return Artifact.of(path, "onnx", "fp32", SPEC)


def test_memory_is_that_of_the_artefact_alone_whatever_this_process_has(artifact, tmp_path):
    large = padded(artifact, tmp_path / "large.onnx", 64)
    here = np.ones(400 * 2**20, np.uint8)  # which the processes started from here have nothing of
    found = {each.path.name: cold.memory(each, IMAGES, open_runner, 1, 1) for each in (large, artifact)}
    assert here.nbytes / 2**20 < peak_rss_mib()
    (added, peak), (added_large, peak_large) = found["tiny.onnx"], found["large.onnx"]
    assert 1 < added < peak < 300 and added < 64
    assert 64 < added_large - added < 64 * 4 and 64 < peak_large - peak < 64 * 4
    text = tmp_path / "text.onnx"
    text.write_text("hello")
    assert cold.memory(replace(artifact, path=text), IMAGES, open_runner, 1, 1) == (None, None)


def test_ctrl_c_keeps_the_processes_that_were_done(artifact, monkeypatch):
    def stop(share, what):
        if "cold start 2" in what:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        cold.measure({"tiny": artifact}, IMAGES, open_runner, effort="rapid", progress=stop)
    assert stopped.value.records["tiny"].n == 1 and "interrupted" in stopped.value.records["tiny"].capped
