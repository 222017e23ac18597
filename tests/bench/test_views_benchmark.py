"""benchmarks/views.py: every kind of view is made in each way, and its time is written down."""

import json

import pytest


@pytest.fixture(scope="module")
def views(benchmark_script):
    return benchmark_script("views")


def test_all_are_made_in_turns(views, tmp_path, capsys):
    views.main(["--images", "16", "--batch", "8", "--rounds", "1", "--network", "none", "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "views.json").read_text())["results"]
    names = list(views.pipelines(32))
    assert [(row["views"], row["by"]) for row in rows] == [
        (name, by) for name in names for by in (views.OURS, views.TENSORS, views.PILLOW)
    ]
    assert all(row["n"] == 1 and row["images_per_second"] > 0 for row in rows)
    assert "| flip, TrivialAugment |" in capsys.readouterr().out


def test_a_step_holds_its_batch(views, tmp_path):
    brief = ["--images", "16", "--batch", "8", "--rounds", "2", "--only", "CutMix"]
    views.main([*brief, "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "views.json").read_text())["results"]
    assert len(rows) == 3 and all(0 < row["batch_ms"] < row["step_ms"] for row in rows)
    assert "CutMix" in (tmp_path / "views.md").read_text()
