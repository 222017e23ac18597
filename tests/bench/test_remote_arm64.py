"""The device emulated-arm64: the arm64 runtime under qemu-user. $KDCOMPRESS_ARM64 names a folder that keeps it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from kdcompress.artifact import Artifact
from kdcompress.bench import arm64
from kdcompress.bench.agent import facts
from kdcompress.bench.devices import parse_device
from kdcompress.errors import KDCompressError, RuntimeMissingError, UsageError


def test_what_it_refuses(request_of, monkeypatch, tmp_path):
    bench, address = parse_device(f"emulated-arm64:{tmp_path / 'kept'}")
    with pytest.raises(UsageError, match="made for x86_64, target x86-vnni"):
        bench(request_of(target="x86-vnni"), address, print)
    engine = {"model": replace(request_of().artifacts["model 0"], format="tensorrt")}
    with pytest.raises(RuntimeMissingError, match="cannot run tensorrt files"):
        bench(replace(request_of(), artifacts=engine), address, print)
    with monkeypatch.context() as patch:
        patch.setitem(facts.PACKAGES, "onnx", "no-such-package")
        with pytest.raises(RuntimeMissingError, match="no-such-package is not installed here"):
            bench(request_of(), address, print)
    with pytest.raises(UsageError, match="does not measure this scenario"):
        bench(request_of(scenario="offline"), address, print)
    monkeypatch.setattr(arm64, "EMULATORS", ("no-such-program",))
    with pytest.raises(RuntimeMissingError, match="qemu-user-static"):
        bench(request_of(), address, print)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def root(request):
    try:
        arm64.emulator()
    except RuntimeMissingError as error:
        pytest.skip(f"{error.what} {error.hint}")
    kept = Path(os.environ.get("KDCOMPRESS_ARM64") or request.config.cache.mkdir("arm64"))
    arm64.prepare(kept)
    return kept


def test_outputs_are_compared_and_no_latency_is_told(root, request_of, tmp_path):
    bench, address = parse_device(f"emulated-arm64:{root}")
    request = request_of(1, baseline="model 0")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model at all")
    spec = request.artifacts["model 0"].input
    request.artifacts["for arm"] = request_of(target="arm64-dotprod").artifacts["model 0"]
    request.artifacts["broken"] = Artifact.of(path, "onnx", "fp32", spec)
    told = []
    session = bench(request, address, lambda share, what: told.append(what))
    assert session.before["architecture"] == "aarch64" and "asimddp" in session.before["isa"]
    assert session.parity["model 0"]["passed"] and session.parity["for arm"]["n"] == 32
    assert session.records["broken"].failed and "broken" not in session.parity
    for record in session.records.values():
        assert record.n == 0 and record.samples_ms == [] and record.ratio is None
        times = {key: value for key, value in record.to_json().items() if key.endswith(("_ms", "_s", "second"))}
        assert times and not any(times.values())
    assert session.records["model 0"].runtime["version"] == arm64.version("onnxruntime")
    assert any(note.startswith("Emulated") for note in session.notes)


def test_a_system_without_its_runtime_is_an_error(root, request_of, tmp_path):
    made = arm64.prepare(root)
    lacking = tmp_path / made.name
    lacking.mkdir()
    for part in made.iterdir():
        if part.name != "site":
            (lacking / part.name).symlink_to(part)
    (lacking / "site").mkdir()
    bench, address = parse_device(f"emulated-arm64:{tmp_path}")
    with pytest.raises(KDCompressError, match="No module named 'numpy'"):
        bench(request_of(), address, print)
