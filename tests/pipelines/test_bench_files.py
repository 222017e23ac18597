"""`kdcompress bench` as a command: what it takes, what it writes, what it refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from click.testing import CliRunner
from onnx import TensorProto as Kind
from onnx import helper

from kdcompress.artifact import Artifact, InputSpec, content_hash
from kdcompress.bench import cold, devices, timing
from kdcompress.cli.main import main
from kdcompress.pipelines import measure
from kdcompress.report import latency

SPEC = InputSpec(8, 8, 1, (0.5,), (0.5,), ("a", "b"))


def model(path, work=1, shape=("N", 8, 8, 1), kind=Kind.UINT8):
    """``work`` matrix products of 64 x 64, one after the other."""
    weight = onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32) / 64, "weight")
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=Kind.FLOAT)]
    nodes += [helper.make_node("Flatten", ["float"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{i}", "weight"], [f"h{i + 1}"]) for i in range(work)]
    nodes += [helper.make_node("Identity", [f"h{work}"], ["logits"])]
    image = helper.make_tensor_value_info("image", kind, shape)
    logits = helper.make_tensor_value_info("logits", Kind.FLOAT, ["N", 64])
    graph = helper.make_graph(nodes, "net", [image], [logits], [weight])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def recorded(path, work=1, **facts):
    """The same as kdcompress leaves it: with its record."""
    artifact = replace(Artifact.of(model(path, work), "onnx", "fp32", SPEC), **facts)
    path.with_name(path.name + ".json").write_text(json.dumps(artifact.to_json()))
    return artifact


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setitem(timing.EFFORTS, "rapid", (64, 0.1))
    monkeypatch.setitem(cold.QUERIES, "rapid", 1)


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments), *(["--effort", "rapid"] if arguments else [])])


@pytest.fixture
def run_folder(tmp_path):
    """A finished run of a teacher, a student, its int8 file that is slower, an engine and one for another machine."""
    folder = tmp_path / "run"
    made = {
        "student-fp32": recorded(folder / "artifacts/student.onnx", 4),
        "teacher-fp32": recorded(folder / "artifacts/teacher.onnx", 400),
    }
    parent = {"provenance": {"parent": made["student-fp32"].sha256}, "precision": "int8"}
    made["student-x86-vnni"] = recorded(folder / "artifacts/student-x86-vnni.onnx", 200, target="x86-vnni", **parent)
    made["student-arm64"] = recorded(folder / "artifacts/student-arm64.onnx", 4, target="arm64-dotprod", **parent)
    engine = folder / "artifacts/student.engine"
    engine.write_bytes(b"ftrt")
    made["student-tensorrt"] = Artifact.of(engine, "tensorrt", "fp32", SPEC)
    engine.with_name("student.engine.json").write_text(json.dumps(made["student-tensorrt"].to_json()))
    order = ["teacher-fp32", *(name for name in made if name != "teacher-fp32")]
    rows = [{"name": name, "file": f"artifacts/{made[name].path.name}"} for name in order]
    rows.append({"name": "student-failed", "file": None})
    (folder / "report.json").write_text(json.dumps({"rows": rows}))
    return folder


def test_a_run_folder_is_measured_teacher_first_and_written_in_every_form(run_folder, tmp_path):
    paths = [tmp_path / f"bench.{kind}" for kind in ("json", "md", "csv", "html")]
    done = bench(run_folder, *(part for path in paths for part in ("--export", path)))
    assert done.exit_code == 0, done.output
    document = json.loads(paths[0].read_text())
    names = ["teacher-fp32", "student-fp32", "student-x86-vnni", "student-arm64"]
    assert list(document["records"]) == names and document["baseline"] == "teacher-fp32"
    assert document["ratios"]["student-fp32"]["verdict"] == "faster"
    assert all(r["n"] == len(r["samples_ms"]) >= 64 for r in document["records"].values())
    assert all(1 < r["load_rss_mib"] < r["peak_rss_mib"] for r in document["records"].values())
    assert document["machine"]["cpu"] and document["artifacts"]["student-fp32"]["sha256"]
    advice = " ".join(document["advice"])
    assert "student-x86-vnni is slower than the fp32 it was made from" in advice
    assert "student-arm64 is made for arm64" in advice
    assert any("student-tensorrt was not measured" in note for note in document["notes"])
    assert "teacher-fp32" in done.stdout and "baseline" in done.stdout and "faster" in done.stdout
    assert "not exposed" in done.stderr or "mJ" in done.stdout
    markdown, page = paths[1].read_text(), paths[3].read_text()
    assert "| student-fp32 |" in markdown and "microseconds per query" in markdown
    assert document["machine"]["cpu"] in markdown
    assert "<svg" in page and "student-arm64" in page and "http" not in page.split("</style>")[1].split("<svg")[0]
    lines = {line["label"]: line for line in csv.DictReader(paths[2].open())}
    assert float(lines["student-fp32"]["median_ms"]) == document["records"]["student-fp32"]["median_ms"]
    assert float(lines["student-fp32"]["ratio_high"]) < 1 and lines["teacher-fp32"]["ratio_high"] == ""


def test_what_another_device_answers_is_in_the_table():
    record = {"n": 0, "batch": 1, "scenario": "single-stream"}
    document = {
        "records": {"fp32": record, "int8": record},
        "parity": {
            "fp32": {"max_abs": 3.9e-7, "passed": True},
            "int8": {"max_abs": 2.5, "passed": False, "why": "far off"},
        },
    }
    shown, body = latency.rows(document)
    assert shown["parity"] == "outputs off by" and [row["parity"] for row in body] == ["3.9e-07", "2.5e+00, too far"]
    assert "parity" not in latency.rows({"records": {"fp32": record}})[0]


def test_a_run_that_has_no_report_yet_is_measured_by_its_steps(tmp_path):
    for name in ("student-fp32", "teacher-fp32", "student-x86-vnni"):
        step = tmp_path / "run/steps" / name / "key"
        artifact = recorded(step / f"{name}.onnx")
        record = {"step": name, "result": {"artifact": artifact.to_json()}, "files": {}, "hash": "", "seconds": 0}
        (step / "step.json").write_text(json.dumps(record | {"sha256": content_hash(record)}))
    found, _ = measure.named_artifacts([tmp_path / "run"])
    assert list(found) == ["teacher-fp32", "student-fp32", "student-x86-vnni"]


def test_files_from_elsewhere_and_a_baseline(tmp_path):
    small, large = model(tmp_path / "a/net.onnx", 2), model(tmp_path / "b/net.onnx", 300)
    floats = model(tmp_path / "floats.onnx", 2, (1, 8, 8, 1), Kind.FLOAT)
    done = bench(small, large, floats, "--baseline", large, "--json")
    document = json.loads(done.stdout)
    assert list(document["records"]) == ["a/net.onnx", "b/net.onnx", "floats.onnx"]
    assert document["baseline"] == "b/net.onnx"
    assert {document["ratios"][name]["verdict"] for name in ("a/net.onnx", "floats.onnx")} == {"faster"}
    assert json.loads(bench(small, "--baseline", "net.onnx", "--json").stdout)["baseline"] == "net.onnx"
    refused = bench(small, large, "--baseline", "b/nat.onnx")
    assert refused.exit_code == 2 and "did you mean 'b/net.onnx'" in refused.stderr


def test_a_file_twice_is_an_a_a_measurement(tmp_path):
    path = model(tmp_path / "net.onnx", 50)
    assert list(json.loads(bench(path, path, "--json").stdout)["records"]) == ["net.onnx", "net.onnx (2)"]


@pytest.mark.parametrize("scenario", ["multi-stream", "offline", "cold-start"])
def test_the_other_scenarios(tmp_path, scenario):
    path = recorded(tmp_path / "net.onnx").path
    options = ["--cold-start"] if scenario == "cold-start" else ["--scenario", scenario]
    record = json.loads(bench(path, *options, "--json").stdout)["records"]["net.onnx"]
    assert record["scenario"] == scenario and record["failed"] is None
    assert record["n"] == 1 if scenario == "cold-start" else record["n"] >= 64
    assert record["batch"] == {"multi-stream": 8, "cold-start": 1}.get(scenario, record["batch"])
    if scenario == "offline":
        assert str(record["batch"]) in record["batches"] and record["images_per_second"] > 0
        shown = bench(path, *options)
        assert "images/s" in shown.stdout


def test_two_sessions_are_compared_with_an_exit_code(tmp_path):
    large, student = model(tmp_path / "large.onnx", 100), model(tmp_path / "student.onnx", 300)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    assert bench(large, student, "--export", old).exit_code == 0
    same = CliRunner().invoke(main, ["bench", "--compare", str(old), str(old)])
    assert same.exit_code == 0 and "no difference" in same.stdout  # in 80 columns, "shown" is on the next line
    model(tmp_path / "student.onnx", 900)
    assert bench(large, student, "--export", new).exit_code == 0
    slower = CliRunner().invoke(main, ["bench", "--compare", str(old), str(new)])
    said = slower.stderr.split("Slower than before, by more than noise: ")[1]
    assert slower.exit_code == 1 and said.startswith("student.onnx.")
    assert "relative" in slower.stdout and "student.onnx is not the same file" in slower.stderr
    told = CliRunner().invoke(main, ["bench", "--compare", str(new), str(old), "--json"])
    found = json.loads(told.stdout)
    assert found["rows"][1]["verdict"] == "faster" and found["regressions"] == [] and told.exit_code == 0


def text(path, content):
    path.write_text(content)
    return path


REFUSED = {
    "nothing at all": (lambda t: [], "Give files"),
    "files and a comparison": (lambda t: [model(t / "a.onnx"), "--compare", t / "a", t / "b"], "Give files"),
    "a file that is not there": (lambda t: [t / "none.onnx"], "none.onnx"),
    "a folder that is no run": (lambda t: [t], "does not say what its input is"),
    "a run that made nothing yet": (lambda t: [(t / "steps").mkdir() or t], "no artefact yet"),
    "a damaged report": (lambda t: [text(t / "report.json", "{").parent], "not valid JSON"),
    "a record that is none": (lambda t: [text(t / "a.onnx.json", "[]") and model(t / "a.onnx")], "not the record"),
    "a file that is not the one recorded": (
        lambda t: [model(recorded(t / "a.onnx").path, 9)],
        "not the one that was recorded",
    ),
    "sizes that differ": (
        lambda t: [model(t / "a.onnx"), model(t / "b.onnx", shape=("N", 4, 16, 1))],
        "different sizes",
    ),
    "an unknown device": (lambda t: [model(t / "a.onnx"), "--device", "locall"], "did you mean 'local'"),
    "an address for local": (lambda t: [model(t / "a.onnx"), "--device", "local:x"], "takes no address"),
    "an unknown scenario": (lambda t: [model(t / "a.onnx"), "--scenario", "server"], "'server'"),
    "an export that is no format": (lambda t: [model(t / "a.onnx"), "--export", "a.pdf"], "md, csv, json, html"),
    "an export into no folder": (lambda t: [model(t / "a.onnx"), "--export", t / "no/a.md"], "no such folder"),
    "a comparison with no measurement": (
        lambda t: ["--compare", text(t / "a.json", "{}"), t / "a.json"],
        "not a measurement",
    ),
    "a comparison with a file that is not there": (lambda t: ["--compare", t / "a.json", t / "a.json"], "a.json"),
    "zero threads": (lambda t: [model(t / "a.onnx"), "--threads", 0], "threads"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_refused_before_anything_is_measured(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "measure", lambda *arguments, **options: pytest.fail("it was measured"))
    arguments, message = REFUSED[kind]
    made = arguments(tmp_path)
    done = CliRunner().invoke(main, ["bench", *map(str, made)])
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_a_file_that_cannot_be_loaded_does_not_stop_the_others(tmp_path):
    """An operator that ONNX allows and ONNX Runtime has not."""
    good, bad = model(tmp_path / "good.onnx"), tmp_path / "bad.onnx"
    graph = helper.make_graph(
        [helper.make_node("NoSuch", ["image"], ["logits"], domain="example.org")],
        "net",
        [helper.make_tensor_value_info("image", Kind.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", Kind.FLOAT, [1, 2])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("example.org", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), bad)
    done = bench(good, bad)
    assert done.exit_code == 0 and "bad.onnx failed: loading" in done.stderr and "failed" in done.stdout
    alone = bench(bad)
    assert alone.exit_code == 1 and "None of the files could be measured" in alone.stderr and "NoSuch" in alone.stderr


MEASURING = """
from kdcompress.bench import cold, timing
from kdcompress.cli.main import main

rounds, start, started = timing._rounds, cold._start, []

def say(*_):
    open("measuring", "w").close()

def rounds_told(active, queries, seconds, rng, progress):
    rounds(active, queries, seconds, rng, say)  # progress is told of after a quarter of a second

def start_told(starts):
    start(starts)
    started.append(starts)
    if len(started) == 2:
        say()

timing._rounds, cold._start = rounds_told, start_told
timing.EFFORTS["normal"] = (10**6, 40.0)  # it does not end by itself
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("options", [[], ["--cold-start"]])
def test_ctrl_c_writes_what_was_measured_and_leaves_nothing_running(tmp_path, options, ended):
    path = model(tmp_path / "net.onnx", 1000)
    command = [sys.executable, "-c", MEASURING, "bench", str(path), "--effort", "normal", "--export", "part.json"]
    process = subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not (tmp_path / "measuring").exists():
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and b"Interrupted" in said and b"Traceback" not in said
    document = json.loads((tmp_path / "part.json").read_text())
    record = document["records"]["net.onnx"]
    assert document["interrupted"] and "interrupted" in record["capped"]
    assert record["n"] == len(record["samples_ms"]) > 0
    assert ended(children)


def test_labels_are_as_short_as_they_can_be():
    paths = [Path("/x/a/net.onnx"), Path("/x/b/net.onnx"), Path("/x/other.onnx")]
    assert [measure._shortest(path, paths) for path in paths] == ["a/net.onnx", "b/net.onnx", "other.onnx"]
