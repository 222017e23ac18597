"""Whatever is put into the JSON that kdcompress reads: an answer or one error, never a traceback, nothing elsewhere."""

import contextlib
import copy
import csv
import io
import json
import os
import random
import re

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto as Kind
from onnx import helper

from kdcompress.artifact import Artifact, InputSpec, content_hash
from kdcompress.cli.main import main
from kdcompress.errors import CONTROLS, KDCompressError
from kdcompress.export.describe import artifact_of
from kdcompress.pipelines.measure import run_artifacts
from kdcompress.report.html import html
from kdcompress.report.latency import as_csv
from kdcompress.report.markdown import markdown

DEEP = json.loads("[" * 90 + "]" * 90)
VALUES = [
    *(None, True, 0, -1, 7, 10**30, 2**63, 1e308, -1e-308, float("nan"), float("inf"), "", "x" * 9999, [], {}, DEEP),
    *([None] * 3, ["a", 1], {"a": None}, [[1, 2], [3]], {"": {"": []}}, "\x1b]52;c;ZXZpbA==\x07\u202e\n", "\ud800"),
    *("../../etc/passwd", "/etc/passwd", "C:\\x", "=1+1", "<script>", "NaN", "measured", "faster", [1e308, 1e-308, 0]),
]
SPEC = InputSpec(8, 8, 1, (0.5,), (0.5,), ("a", "b"))
COUNTS = pytest.mark.parametrize("count", [80, pytest.param(1500, marks=pytest.mark.slow)])


def places(value, at=()):
    """The path of every part of a document."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value[:3]):
        yield (*at, key)
        if isinstance(part, (dict, list)):
            yield from places(part, (*at, key))


def damaged(document, count):
    """So many copies with one to three parts replaced, left out, doubled or renamed; always the same."""
    rng, every = random.Random(0), sorted(places(document), key=str)
    for _ in range(count):
        changed = copy.deepcopy(document)
        for place in rng.sample(every, rng.choice([1, 1, 1, 2, 3])):
            *parents, key = place
            inside = changed
            try:
                for parent in parents:
                    inside = inside[parent]
                inside[key]
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change took it away
            if not isinstance(inside, (dict, list)):
                continue
            match rng.randrange(12):
                case 0:
                    del inside[key]
                case 1 if isinstance(inside, dict):
                    inside[rng.choice(["", "é\x1b", "unknown"])] = inside.pop(key)
                case _:
                    inside[key] = copy.deepcopy(rng.choice(VALUES))
        yield json.dumps(changed)


def answered(*arguments):
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    assert found.exit_code in (0, 1, 2, 3) and "Traceback" not in found.output
    assert len(found.stderr) < 8000 and not CONTROLS.search(found.output)


def told(work):
    """The answer, where it is no error that is a screen at most."""
    try:
        return work()
    except KDCompressError as error:
        assert len(str(error)) < 6000


@pytest.fixture
def artifact(tmp_path):
    values = [helper.make_tensor_value_info(name, Kind.FLOAT, ["N", 2]) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "g", values[:1], values[1:])
    path = tmp_path / "run" / "a.onnx"
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph), path)
    return Artifact.of(path, "onnx", "fp32", SPEC, provenance={"versions": {"onnx": "1"}})


@pytest.fixture(autouse=True)
def nothing_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "run")
    yield
    assert os.listdir(tmp_path) == ["run"]


@COUNTS
def test_records(count, artifact):
    record = artifact.path.with_name("a.onnx.json")
    for text in damaged(artifact.to_json() | {"path": "a.onnx"}, count):
        record.write_text(text)
        answered("inspect", record)


@COUNTS
def test_metadata(count, artifact):
    model = onnx.load(artifact.path)
    for text in damaged(artifact.to_json()["input"], count):
        del model.metadata_props[:]
        helper.set_model_props(model, {"kdcompress.input": text, "kdcompress.precision": "fp32"})
        onnx.save(model, artifact.path)
        told(lambda: artifact_of(artifact.path))


def short(document):
    """With few samples, so that most of what is changed is something else."""
    drop = {"points": 0.11, "low": -0.2, "high": 0.4, "verdict": "no difference shown", "images": 525}
    for row in document["rows"]:
        if row["latency"]:
            row["latency"]["samples_ms"] = row["latency"]["samples_ms"][:200]
        if row["score"]:
            row |= {"images": 525, "score_low": 90.0, "score_high": 95.0, "drop_to_teacher": dict(drop)}
            row["drop_to_parent"] = drop | {"allowed": 0.5}
    return document


@COUNTS
def test_reports(count, document, tmp_path):
    folder = tmp_path / "run"
    for i, text in enumerate(damaged(short(document), count // 2)):
        (folder / "report.json").write_text(text)
        told(lambda: run_artifacts(folder))
        answered("bundle", folder, *(("--target", "x86-vnni") if i % 2 else ()))
        answered("report", folder)


def as_written(text):
    """With the hash of a record that is what it was when it was written."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(record := json.loads(text), dict):
            return json.dumps({**record, "sha256": content_hash(record)})
    return text


@COUNTS
def test_steps(count, artifact, tmp_path):
    folder = tmp_path / "run" / "steps" / "onnx-fp32" / "0123"
    folder.mkdir(parents=True)
    artifact.path.rename(folder / "a.onnx")
    record = {"step": "onnx-fp32", "result": {"artifact": artifact.to_json()}, "files": {}, "hash": "0", "seconds": 0}
    for text in damaged(record, count):
        (folder / "step.json").write_text(as_written(text))
        told(lambda: run_artifacts(tmp_path / "run"))


@COUNTS
def test_sessions(count, tmp_path):
    def record(ms):
        samples = [ms * (1 + i % 7 / 50) for i in range(100)]
        return {"n": 100, "batch": 1, "median_ms": ms, "samples_ms": samples, "failed": None, "ratio": None}

    session = {
        **{"device": "local", "scenario": "single-stream", "threads": 1, "effort": "quick", "baseline": "a"},
        "records": {"a": record(1.0), "b": record(0.5)},
        "machine": {"cpu": "A", "packages": {"numpy": "2"}, "load_average": 0.1},
        "machine_after": {"cpu": "A"},
        "artifacts": {"a": {"sha256": "0"}, "b": {"sha256": "1"}},
    }
    good, bad = tmp_path / "run" / "good.json", tmp_path / "run" / "bad.json"
    good.write_text(json.dumps(session))
    for i, text in enumerate(damaged(session, count)):
        bad.write_text(text)
        answered("bench", "--compare", *((good, bad) if i % 2 else (bad, good)), *(["--json"] if i % 3 else []))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1e999", '{"rows": [1]}', "[" * 10**5, '{"a": 1, "a": 2}', "\0"]
)
def test_what_is_no_document(text, tmp_path):
    for name in ("report.json", "a.onnx.json"):
        (tmp_path / "run" / name).write_text(text)
    answered("report", tmp_path / "run")
    answered("bundle", tmp_path / "run")
    answered("inspect", "a.onnx.json")
    answered("bench", "--compare", "report.json", "a.onnx.json")


FORMULA = '=HYPERLINK("http://x")'
MARKUP = '<script>alert(1)</script>`|[a](http://x)![b](www.x.org)\n# c\x1b]52;c;x\x07" onload=alert(1) ]]></style>'


def test_names_are_text_in_every_form(document):
    for row in document["rows"]:
        row["name"] = MARKUP
    document |= {"name": MARKUP, "advice": [MARKUP], "command": f"kdcompress run {MARKUP}", "recipe_yaml": MARKUP}
    document["confusion"]["labels"] = [f"{MARKUP}{i}" for i in range(10)]
    written = markdown(document)
    prose = "".join(part for i, part in enumerate(written.split("```")) if i % 2 == 0)
    assert (
        "<script" not in prose
        and "\n# c" not in prose
        and not re.search(r"(?<!\\)\]\(", prose)
        and "www.x" not in prose
    )
    assert not CONTROLS.search(written)
    page = html(document)
    assert "<script" not in page and '" onload' not in page and page.count("</style>") == 1


def test_a_spreadsheet_has_no_formulas():
    records = {
        name: {"n": 1, "failed": name, "median_ms": -1.5} for name in (FORMULA, "+1", "-1", "@a", "\tb", "\rc", "d")
    }
    rows = list(csv.DictReader(io.StringIO(as_csv({"records": records}))))
    assert [row["label"][0] for row in rows] == ["'"] * 6 + ["d"] and {row["median_ms"] for row in rows} == {"-1.5"}
    assert all(row["failed"] == row["label"] for row in rows)
