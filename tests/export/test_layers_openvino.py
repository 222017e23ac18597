"""OpenVINO models layer by layer."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from export_nets import problem
from layer_checks import WRONG, built, by_node, check_layers, made_wrong, profiled
from test_layers_onnxruntime import queries

from kdcompress.errors import UsageError
from kdcompress.export import graph

pytest.importorskip("openvino")

from kdcompress.export.layers_openvino import Counted, _errors, durations  # noqa: E402
from kdcompress.export.run_openvino import OpenVinoRunner  # noqa: E402


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    pytest.importorskip("nncf")
    return built(trained, tmp_path_factory.mktemp("openvino"), ["openvino-fp32", "x86-openvino"])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_layers(precision, files, trained):
    found = profiled(files[precision], trained.artifact)
    check_layers(found, precision, trained.artifact)
    assert "average" in found.notes[0] and "copy" in found.notes[1]
    moved = [layer for layer in found.layers if layer.kind.startswith(("Reorder", "Reshape", "Convert"))]
    assert moved and {layer.precision for layer in moved} == {""}
    errors = [layer.snr_db for layer in by_node(found).values()]
    assert all(each > 90 if precision == "fp32" else 12 < each < 60 for each in errors), errors


def test_a_layer_that_is_wrong_is_found(files, trained, tmp_path):
    folder = tmp_path / "wrong.openvino"
    shutil.copytree(files["fp32"].path, folder)
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(made_wrong(trained, content))
    found = by_node(profiled(replace(files["fp32"], path=folder), trained.artifact, count=12))
    assert found[WRONG].snr_db < 15 and found["net.fc"].snr_db < 40
    assert all(found[name].snr_db > 90 for name in found if ".0." in name)


def test_two_layers_that_give_one_tensor_have_one_error(files, trained):
    """As a sum that one layer reads rounded and the next one as it is."""
    model = graph.name_nodes(graph.load(trained.artifact.path))
    asked = queries(files["int8"].input, problem(64, seed=3)[0], 4)
    relu = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    found = _errors(files["int8"], 1, model, trained.artifact, [relu, "", relu], asked)
    assert set(found) == {0, 2} and found[0] == found[2] and 12 < found[0] < 60


def test_images_that_are_read_only_or_not_contiguous(files):
    image = files["fp32"].input.prepare(problem(1, seed=3)[0])
    fixed, turned = image.copy(), np.asfortranarray(image.repeat(2, axis=1).repeat(2, axis=2))[:, ::2, ::2]
    fixed.flags.writeable = False
    with OpenVinoRunner(files["fp32"]) as runner:
        (expected,), *given = [runner.infer(each) for each in (image, fixed, turned)]
    assert not turned.flags.c_contiguous and all(np.array_equal(each, expected) for (each,) in given)


def test_without_a_parent_and_with_two_threads(files):
    found = profiled(files["int8"], None, threads=2, count=11)
    assert found.threads == 2 and "was not given" in found.notes[-1]
    assert {layer.made_of for layer in found.layers} == {()} and {layer.snr_db for layer in found.layers} == {None}
    assert sum(bool(layer.macs) for layer in found.layers) == 8


def test_nodes_that_have_another_name_each_time_keep_their_times():
    counted = Counted(None, 1)
    counted._names, counted._averages = ["conv", "MVN_9"], [[[1.0, 5.0], [1.0, 5.0]]] * 2  # MVN_9 was MVN_4 before
    assert counted.times("MVN_9", [(0, 1), (1, 1)]).tolist() == pytest.approx([0.0055] * 2, abs=0.0011)


def test_durations_by_hand():
    assert durations([10, 7, 8, 6]).tolist() == pytest.approx([10, 4.5, 10, 0.5], abs=0.51)  # of 10, 5, 9 and 0
    assert durations([3, 3, 3]).sum() == pytest.approx(9, abs=1.01)


def test_durations_never_fall_and_add_up():
    rng = np.random.default_rng(0)
    for _ in range(50):
        took = rng.integers(0, 40, 15)
        took[0] += 3000  # the first run is slow
        runs = np.arange(1, 16)
        found = durations(np.cumsum(took) // runs)
        assert (found >= 0).all() and (np.abs(np.cumsum(found) - np.cumsum(took)) <= runs / 2).all()


def test_a_damaged_file(files, trained, tmp_path):
    with pytest.raises(UsageError):
        profiled(replace(files["fp32"], path=tmp_path / "none.openvino"), trained.artifact)
