"""benchmarks/kinds.py: twelve kinds of trained network in int8."""

import json

import pytest
import timm

from kdcompress.errors import UsageError

MADE = {"rung": "sensitive layers in float", "what": "2 of 9", "kept": True}


@pytest.fixture(scope="module")
def kinds(benchmark_script):
    return benchmark_script("kinds")


def row(role, target, precision, **facts):
    usual = {"status": "measured", "why": None, "bytes": 10, "score": 90.0, "drop": None, "drop_to_parent": None}
    usual |= {"ratio": None, "ladder": None, "coverage": None, "parameters": 1_500_000}
    return {"role": role, "target": target, "precision": precision, **usual, **facts}


def report(folder):
    rows = [row("teacher", None, "fp32", score=99.0), row("student", None, "fp32")]
    faster = {"median": 0.5, "low": 0.4, "high": 0.6, "verdict": "faster", "n": 50}
    layers = {"conv": {"int8": 5, "fp16": 0, "fp32": 2}, "gemm": {"int8": 2, "fp16": 0, "fp32": 0}}
    rows.append(
        row("student", "x86-vnni", "int8", score=89.75, drop=0.25, ratio=faster, ladder=[MADE], coverage=layers)
    )
    rows.append(row("student", "android-litert", "int8", status="failed", why="no operator", score=None))
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"rows": rows, "machine": {"cpu": "one"}}))


def test_they_are_twelve_networks_of_timms(kinds):
    assert len(kinds.KINDS) == 12 and all(map(timm.is_model, kinds.KINDS))


def test_the_page_says_what_the_reports_say(kinds, tmp_path, capsys):
    report(tmp_path / "work" / "repvgg_a0")
    page, output = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text(f"Before.\n{kinds.MARKS[0]}\nold\n{kinds.MARKS[1]}\nAfter.\n")
    kinds.main(["--kept", "--work", str(tmp_path / "work"), "--page", str(page), "-o", str(output)])
    (found,) = json.loads(output.read_text())
    assert (
        found["name"] == "repvgg_a0" and found["score"] == 90 and set(found["files"]) == {"x86-vnni", "android-litert"}
    )
    text = page.read_text()
    assert text.startswith("Before.\n") and text.endswith("\nAfter.\n") and "old" not in text
    assert "| 1.50 | 90.00 | 0.25, 0.50×, 2 of 9 in float, sensitive layers in float | failed: no operator |" in text


def test_an_unknown_network_and_a_page_without_a_place_are_told(kinds, tmp_path):
    with pytest.raises(UsageError, match="repvgg_a0"):
        kinds.main(["--kept", "--only", "repvgg_a9"])
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(UsageError, match="no place"):
        kinds.main(["--kept", "--page", str(tmp_path / "page.md")])
