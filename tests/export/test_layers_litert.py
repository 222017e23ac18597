""".tflite files layer by layer."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from layer_checks import WRONG, built, by_node, check_layers, made_wrong, profiled, sums_are_apart

from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export import litert_profiler

pytest.importorskip("litert_torch")


@pytest.fixture(scope="module")
def fp32(trained, tmp_path_factory):
    return built(trained, tmp_path_factory.mktemp("fp32"), ["litert-fp32"])["fp32"]


@pytest.fixture(scope="module")
def int8(trained, tmp_path_factory):
    return built(trained, tmp_path_factory.mktemp("int8"), ["android-litert"])["int8"]


def check(found, precision, trained):
    check_layers(found, precision, trained.artifact)
    assert "compiled model" in found.notes[0] and "own kernels" in found.notes[-1] and sums_are_apart(found)
    assert {layer.precision for layer in found.layers if layer.kind.startswith(("RESHAPE", "Convert"))} == {""}
    errors = [layer.snr_db for layer in by_node(found).values()]
    assert all(each > 90 if precision == "fp32" else 12 < each < 60 for each in errors), errors


def test_layers_of_fp32(fp32, trained):
    check(profiled(fp32, trained.artifact), "fp32", trained)


@pytest.mark.slow
def test_layers_of_int8(int8, trained):
    check(profiled(int8, trained.artifact), "int8", trained)


def test_a_layer_that_is_wrong_is_found(fp32, trained, tmp_path):
    path = tmp_path / "wrong.tflite"
    path.write_bytes(made_wrong(trained, fp32.path.read_bytes()))
    found = by_node(profiled(replace(fp32, path=path), trained.artifact, count=12))
    assert found[WRONG].snr_db < 15 and found["net.fc"].snr_db < 40
    assert all(found[name].snr_db > 90 for name in found if ".0." in name)


def test_without_a_parent(fp32):
    found = profiled(fp32, None, threads=2, count=11)
    assert found.threads == 2 and "was not given" in found.notes[-1]
    assert {layer.made_of for layer in found.layers} == {()} and {layer.snr_db for layer in found.layers} == {None}


def test_a_profiler_that_is_not_known_is_refused(fp32, monkeypatch):
    class Longer(litert_profiler.Record):
        _fields_ = [("another", ctypes.c_uint64)]

    monkeypatch.setattr(litert_profiler, "Record", Longer)
    with pytest.raises(KDCompressError, match="profiler is not known"):
        profiled(fp32, None)
    monkeypatch.setattr(litert_profiler, "VERSIONS", ((9, 0), (10, 0)))
    with pytest.raises(KDCompressError, match=r"profiler is not known(.|\n)*from 9\.0 on"):
        profiled(fp32, None)


def test_an_input_of_another_size_is_refused(fp32):
    with litert_profiler.Profiled(fp32.path, 1) as profiled, pytest.raises(UsageError, match="another input"):
        profiled.run(np.zeros((2, 16, 16, 1), np.uint8))


def test_a_file_that_is_none(fp32, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(fp32.path.read_bytes()[:2000])
    with pytest.raises(UsageError):
        profiled(replace(fp32, path=path), None)
    with pytest.raises(UsageError, match="cannot profile"), litert_profiler.Profiled(tmp_path / "none.tflite", 1):
        pass
