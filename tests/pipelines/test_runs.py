"""Steps: done once, whole or not there, redone when an input changes."""

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdcompress.errors import KDCompressError, UsageError
from kdcompress.pipelines.runs import Key, RunFolder, Step


@dataclass(frozen=True)
class Does(Step):
    name: str
    work: Callable[[Path], dict]
    params: dict = field(default_factory=dict)
    hashes: dict = field(default_factory=dict)
    goes_on: bool = False

    @property
    def resumes(self):
        return self.goes_on

    def key(self, inputs):
        return Key(self.params, self.hashes)

    def do(self, folder, inputs):
        return self.work(folder)


def step(calls, text="one", hashes=None):
    def work(folder):
        calls.append(text)
        (folder / "out.txt").write_text(text)
        return {"text": text}

    return Does("write", work, {"text": text}, hashes or {})


def test_done_once_and_redone_when_params_or_inputs_change(tmp_path):
    run, calls = RunFolder(tmp_path), []
    first = run.run(step(calls))
    again = run.run(step(calls))
    assert calls == ["one"] and not first.reused and again.reused
    assert again.hash == first.hash and again.result == {"text": "one"}
    run.run(step(calls, "two"))
    run.run(step(calls, hashes={"data": "abc"}))
    assert len(calls) == 3
    assert run.run(step(calls)).reused  # what was made before is still there
    assert not run.run(step(calls), force=True).reused


def test_a_damaged_file_is_made_again(tmp_path):
    run, calls = RunFolder(tmp_path), []
    done = run.run(step(calls))
    (done.folder / "out.txt").write_text("damaged")
    assert run.finished(step(calls)) is None
    assert (run.run(step(calls)).folder / "out.txt").read_text() == "one"


DAMAGED = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "a number": b"1e999",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
}
FIELDS = ("step", "version", "params", "inputs", "result", "files", "hash", "seconds", "sha256")
VALUES = (None, [], {}, "text", 10**30, -1.5, [[[]]], {"a": None}, {"../../out.txt": "x"}, True)


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_record_is_made_again(tmp_path, capsys, how):
    run, calls = RunFolder(tmp_path), []
    record = run.run(step(calls)).folder / "step.json"
    record.write_bytes(DAMAGED[how])
    assert run.run(step(calls)).result == {"text": "one"} and calls == ["one", "one"]
    assert " ".join(capsys.readouterr().err.split()).count("is damaged or was changed, so the step is done again") == 1
    assert run.run(step(calls)).reused


def test_a_record_is_believed_only_as_it_was_written(tmp_path):
    run, calls = RunFolder(tmp_path), []
    record = run.run(step(calls)).folder / "step.json"
    whole = record.read_bytes()
    written = json.loads(whole)
    for key in FIELDS:
        for value in (value for value in VALUES if value != written[key]):
            record.write_text(json.dumps({**written, key: value}))
            assert run.finished(step(calls)) is None, (key, value)
    for end in range(0, len(whole), 7):
        record.write_bytes(whole[:end])
        assert run.finished(step(calls)) is None
    record.unlink()
    record.mkdir()
    assert run.finished(step(calls)) is None
    assert not run.run(step(calls)).reused and run.finished(step(calls))


def test_an_edited_result_is_noticed(tmp_path, capsys):
    run, calls = RunFolder(tmp_path), []

    def work(folder):
        calls.append(1)
        return {"score": 91.5, "classes": {1: "a", 10: "b", 2: float("nan")}, "shape": (1, 2)}

    record = run.run(Does("check", work)).folder / "step.json"
    assert run.run(Does("check", work)).reused
    record.write_text(record.read_text().replace("91.5", "99.5"))
    assert run.run(Does("check", work)).result["score"] == 91.5 and len(calls) == 2
    assert "is damaged or was changed" in " ".join(capsys.readouterr().err.split())


def test_a_failed_step_leaves_nothing_finished_and_a_resumable_one_keeps_its_files(tmp_path):
    run, seen = RunFolder(tmp_path), []

    def work(folder):
        seen.append(sorted(p.name for p in folder.iterdir()))
        (folder / "half").write_text("x")
        if len(seen) < 3:
            raise KDCompressError("stopped")
        return {}

    def attempt(resumes):
        return run.run(Does("s", work, goes_on=resumes))

    for _ in range(2):
        with pytest.raises(KDCompressError):
            attempt(resumes=True)
    assert run.finished(Does("s", work)) is None
    attempt(resumes=True)
    assert seen == [[], ["half"], ["half"]]
    assert run.finished(Does("s", work))


def test_a_full_disk_is_told_of_and_finished_steps_are_kept(tmp_path):
    run, calls = RunFolder(tmp_path), []
    run.run(step(calls))

    def work(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(KDCompressError, match="No space left on device"):
        run.run(Does("big", work))
    assert run.finished(step(calls))


def _hold(path, ready, release):
    with RunFolder(path).locked():
        ready.set()
        release.wait(300)


def test_one_writer_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, release))
    holder.start()
    try:
        assert ready.wait(300)
        with pytest.raises(UsageError, match="Another process"), RunFolder(tmp_path).locked():
            pass
    finally:
        release.set()
        holder.join()
    with RunFolder(tmp_path).locked():  # free again
        pass


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"), RunFolder(tmp_path / "file" / "run").locked():
        pass


def test_the_record_says_what_the_step_was(tmp_path):
    done = RunFolder(tmp_path).run(step([]))
    record = json.loads((done.folder / "step.json").read_text())
    assert record["params"] == {"text": "one"} and set(record["files"]) == {"out.txt"}
