"""ExecuTorch programs layer by layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from layer_checks import built, by_node, check_layers, made_wrong, profiled, sums_are_apart

from kdcompress.errors import KDCompressError, UsageError

pytest.importorskip("executorch")

from kdcompress.export import layers_executorch  # noqa: E402


@pytest.fixture(scope="module")
def fp32(trained, tmp_path_factory):
    return built(trained, tmp_path_factory.mktemp("fp32"), ["android-xnnpack-fp32"])["fp32"]


@pytest.fixture(scope="module")
def int8(trained, tmp_path_factory):
    return built(trained, tmp_path_factory.mktemp("int8"), ["android-xnnpack"])["int8"]


def check(found, precision, trained):
    check_layers(found, precision, trained.artifact)
    assert found.layers[0].kind.startswith("native_call") and sums_are_apart(found)
    assert {layer.precision for layer in found.layers if layer.kind.startswith(("Transpose", "Convert"))} == {""}
    assert {name for name, layer in by_node(found).items() if layer.snr_db is not None} == {"net.fc"}
    error = by_node(found)["net.fc"].snr_db
    assert error > 90 if precision == "fp32" else 12 < error < 60


def test_layers_of_fp32(fp32, trained):
    check(profiled(fp32, trained.artifact), "fp32", trained)


@pytest.mark.slow
def test_layers_of_int8(int8, trained):
    check(profiled(int8, trained.artifact), "int8", trained)


def test_a_file_that_is_wrong_is_found(fp32, trained, tmp_path):
    path = tmp_path / "wrong.pte"
    path.write_bytes(made_wrong(trained, fp32.path.read_bytes()))
    found = by_node(profiled(replace(fp32, path=path), trained.artifact, count=12))
    assert found["net.fc"].snr_db < 40


def test_without_a_parent(fp32):
    found = profiled(fp32, None, count=11)
    assert "was not given" in found.notes[-1]
    assert {layer.made_of for layer in found.layers} == {()} and {layer.snr_db for layer in found.layers} == {None}


def test_a_runtime_without_its_tracer(fp32, monkeypatch):
    class Silent(layers_executorch.Traced):
        def events(self, runs):
            self.kept = self._program  # what is loaded of it needs it
            self._program = layers_executorch.library().Runtime.get().load_program(fp32.path)
            return super().events(runs)

    monkeypatch.setattr(layers_executorch, "Traced", Silent)
    with pytest.raises(KDCompressError, match="without its event tracer"):
        profiled(fp32, None)


def test_a_file_that_is_none(fp32, tmp_path):
    with pytest.raises(UsageError):
        profiled(replace(fp32, path=tmp_path / "none.pte"), None)
