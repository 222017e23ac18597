"""What a device says may be anything: it is believed, or it is one error."""

import copy
import json
import os
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import pytest
from hostile import VALUES, deep, spoilt

from kdcompress.bench import timing
from kdcompress.bench.advice import advice
from kdcompress.bench.agent.words import MARK
from kdcompress.bench.devices import local
from kdcompress.bench.remote import answer as answers
from kdcompress.bench.remote import commands, conversation
from kdcompress.bench.remote.connection import Options
from kdcompress.bench.remote.messages import heard
from kdcompress.bench.remote.sent import COMPARED
from kdcompress.errors import KDCompressError
from kdcompress.export.formats import open_runner
from kdcompress.runner import infer_all


class Replayed:
    """A Connection to a device that says what is in a file, whatever it is asked."""

    options = Options(away=0.01)
    name = "ssh:somewhere"

    def __init__(self, path):
        self.path = path

    def command(self, script):
        return ["cat", str(self.path)]

    def failure(self, status, words):
        return None


@pytest.fixture
def replayed(tmp_path):
    def say(*messages):
        lines = [MARK + json.dumps(message) + "\n" for message in messages]
        (tmp_path / "said").write_text("".join(lines))
        return Replayed(tmp_path / "said")

    return say


@pytest.fixture(scope="module")
def measured(request_of):
    """(request, what the agent answers)."""
    request = request_of(2, baseline="model 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(timing.EFFORTS, "rapid", (64, 0.05))
        answer = asdict(local(request, "", lambda share, what: None))
    answer["outputs"] = {}
    for label, artifact in request.artifacts.items():
        with open_runner(artifact) as runner:
            (logits,) = infer_all(runner, request.images[:COMPARED], artifact.input)
            answer["outputs"][label] = {"arrays": [logits.tolist()], "runtime": runner.details()}
    return request, json.loads(json.dumps(answer, default=str))


def one_error(error):
    text = str(error)
    text.encode()
    assert all(line.isprintable() for line in text.split("\n")) and len(text) < 6000, text[:500]


def test_an_answer_as_it_is(measured):
    request, answer = measured
    session = answers.session(answer, request, "ssh:somewhere", {})
    assert {label: json.loads(json.dumps(r.to_json())) for label, r in session.records.items()} == answer["records"]
    assert session.before == answer["before"] and session.after == answer["after"]
    assert all(found["passed"] for found in session.parity.values())


def test_answers_with_each_field_spoilt(measured, monkeypatch, tmp_path):
    request, answer = measured
    answer = copy.deepcopy(answer)
    for record in answer["records"].values():
        record["samples_ms"] = record["samples_ms"][:24]
        record["energy"] = {"source": "rapl", "queries": 3, "watts": {"package": 3.5}}
    expected = np.array(answer["outputs"]["model 0"]["arrays"][0], np.float32)
    monkeypatch.setattr(answers, "infer_all", lambda *_: (expected,))
    request = replace(request, open=lambda artifact, threads: nullcontext())
    believed = refused = 0
    for path, value, body in spoilt(answer, 400):
        (tmp_path / "result.json").write_text(json.dumps(body))
        try:
            found = answers.session(answers.read_answer(tmp_path / "result.json", "x"), request, "x", {})
            said = advice(found.records, found.before, found.after, {"model 1": "model 0"}, 1)
            kept = [record.to_json() for record in found.records.values()]
            json.dumps([found.before, found.after, found.parity, found.notes, said, kept], ensure_ascii=False).encode()
            assert all(map(str.isprintable, [*found.notes, *said])), (path, value)
            believed += 1
        except KDCompressError as error:
            one_error(error)
            refused += 1
    assert believed + refused == 400 and believed > 50 and refused > 50


def test_answers_that_are_none(measured):
    for value in [value for value in VALUES if value != {}]:
        with pytest.raises(KDCompressError, match="cannot be read") as caught:
            answers.session(value, measured[0], "x", {})
        one_error(caught.value)


def test_facts_with_each_field_spoilt(measured, monkeypatch):
    facts = {
        "folder": "/tmp/k",
        "python": "3.11",
        "architecture": "x86_64",
        "instructions": ["avx2"],
        "system": "Linux",
    }
    facts |= {"free_bytes": 10**9, "missing": {"onnx": {"got": "no module", "hint": "install it"}}}
    request = measured[0]
    monkeypatch.setattr(conversation, "write_agent", lambda file, opener: None)
    for path, value, body in spoilt(facts):
        try:
            message = heard(MARK + json.dumps(body))
            monkeypatch.setattr(conversation, "asked", lambda *_, said=message: ([said] if said else [], None))
            found = conversation._start(Replayed(None), ["onnx"], request.open)
            answers.suited(request, "x", found)
        except KDCompressError as error:
            one_error(error)
        except Exception as error:
            raise AssertionError(f"{path} = {str(value)[:60]}") from error


def test_messages_while_it_measures_with_each_field_spoilt(measured, replayed):
    result = {"records": {}, "before": {}, "notes": ["well"], "outputs": {}}
    shown = []
    for message in (
        {"share": 0.5, "what": "round 3"},
        {"gone": "killed"},
        {"result": result},
        {"error": {"what": "x"}},
    ):
        for _, _, body in spoilt(message, 12):
            connection = replayed(body, {"gone": "ended"})
            try:
                conversation._follow(connection, "/tmp/k", lambda share, what: shown.append((share, what)), 60)
            except KDCompressError as error:
                one_error(error)
    assert all(0 <= share <= 1 and what.isprintable() and len(what) < 300 for share, what in shown)


def test_a_device_that_says_nothing_of_use_for_ever(replayed, monkeypatch):
    monkeypatch.setattr(conversation, "SPARE_S", 0.0)
    with pytest.raises(KDCompressError, match="does not end"):
        conversation._follow(replayed({"well": "yes"}), "/tmp/k", lambda share, what: None, 0.5)


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_a_connection_that_says_no_more_and_does_not_end(monkeypatch):
    monkeypatch.setattr(commands, "COMMAND_S", 0.1)
    connection = Replayed(None)
    monkeypatch.setattr(Replayed, "command", lambda self, script: ["sh", "-c", "exec >&- 2>&-; exec sleep 60"])
    (said,) = commands.lines(connection, "")
    assert isinstance(said, KDCompressError) and "does not end" in said.what


def test_lines_that_are_no_messages():
    nested = "[" * 100_000
    for text in (
        "null",
        "[]",
        "3",
        '"folder"',
        "NaN",
        nested,
        '{"a": ' + nested,
        "9" * 10_000,
        json.dumps({"a": deep()}),
    ):
        assert heard(MARK + text) is None
    assert heard(MARK + json.dumps({"what": "\x1b]52;c;x\x07"})) == {"what": "\ufffd]52;c;x\ufffd"}


def test_a_reference_that_is_infinite_is_no_parity(measured):
    request, answer = measured
    spoiled = json.loads(json.dumps(answer))
    spoiled["outputs"]["model 0"]["arrays"][0][0][0] = 1e300
    session = answers.session(spoiled, request, "x", {})
    assert not session.parity["model 0"]["passed"]
