"""benchmarks/runtimes.py: one table of every runtime, and the runtimes' own tools on the same files."""

import pytest


@pytest.fixture(scope="module")
def script(benchmark_script):
    return benchmark_script("runtimes")


def test_every_target_is_there_and_has_its_runtime(script):
    from kdcompress.export import formats

    for precision, names in script.TARGETS.items():
        assert len(names) <= len(script.RUNTIMES)
        for name in names[precision == "fp32" :]:
            assert formats.target(name).precision == precision


@pytest.mark.slow
def test_openvinos_tool_and_we_measure_the_same_file(script, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(script, "NETWORKS", {"teacher": "resnet14", "student": "resnet8"})
    files = script.prepare(tmp_path / "files", {"fp32": ("onnx", "openvino-fp32"), "int8": ("x86-vnni",)})
    assert list(files) == [
        "teacher fp32 onnx", "teacher fp32 openvino-fp32", "student fp32 onnx", "student fp32 openvino-fp32",
        "student int8 x86-vnni",
    ]  # fmt: skip
    assert script.prepare(tmp_path / "files") == files  # not made again
    monkeypatch.setitem(script.timing.EFFORTS, "rapid", (64, 1.0))
    ours = script.bench_files(tuple(files.values()), effort="rapid")
    rows = script.rows(files, [ours, ours])
    assert [row["runtime"] for row in rows] == ["ONNX Runtime", "OpenVINO", "ONNX Runtime", "OpenVINO", "ONNX Runtime"]
    assert rows[0]["ratio"] == [None, None] and rows[0]["overlaps"] is None and rows[2]["overlaps"] is True
    assert 0 < rows[2]["ratio"][0]["median"] < 1 and rows[1]["n"][0] >= 64
    path = files["student fp32 openvino-fp32"]
    theirs = script.benchmark_app(path, 1)
    assert theirs["n"] > 100 and theirs["median_ms"] == pytest.approx(
        ours["records"][path.name]["median_ms"], rel=0.5
    )  # and not a thousand times as long: its unit changes
    tools = script.tools(files, 0, 1, tmp_path)
    assert tools == []
    text = script.as_markdown({"rows": rows, "tools": tools})
    assert "| student fp32 | OpenVINO |" in text and "session 2" in text


@pytest.mark.slow
def test_litert_s_tool_and_we_measure_the_same_file(script, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("litert_torch")
    monkeypatch.setattr(script, "NETWORKS", {"student": "resnet8"})
    files = script.prepare(tmp_path / "files", {"fp32": ("onnx", "litert-fp32")})
    (row,) = script.tools(files, 1, 1, tmp_path)
    assert row["file"] == "student fp32 litert-fp32" and row["tool"] == "litert-benchmark"
    assert row["theirs"][0]["n"] == 2500 and row["ours"][0]["n"] >= 64
    assert row["theirs"][0]["median_ms"] == pytest.approx(row["ours"][0]["median_ms"], rel=0.5)
