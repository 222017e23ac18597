"""benchmarks/input.py: decoders, and waiting for images in a file, are measured."""

import json

import pytest


@pytest.fixture(scope="module")
def inputs(benchmark_script):
    return benchmark_script("input")


def test_decoders_in_turns(inputs, tmp_path, capsys):
    inputs.main(["--decoders", "--files", "2", "--rounds", "1", "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "decoders.json").read_text())["results"]
    assert len(rows) == 4 * 2 * 2 and all(row["n"] == 1 and row["images_per_second"] > 0 for row in rows)
    assert all(row["pixels_apart_most"] <= 1 for row in rows if row["decoder"] in ("Pillow", "torchvision"))
    assert "| 500 x 375 | 1 | torchvision |" in capsys.readouterr().out


def test_waiting_in_turns(inputs, tmp_path, capsys):
    inputs.main(["--waiting", "--cold", "--images", "16", "--batch", "2", "--rounds", "2", "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "waiting.json").read_text())["results"]
    memory, _, by_the_step = rows
    assert all(row["n"] == 2 for row in rows)
    assert memory["waited_ms"] == 0 < by_the_step["waited_ms"] < by_the_step["step_ms"]
    assert "| in a file, read ahead |" in capsys.readouterr().out
