"""Stages: done once, whole or not there, redone when an input changes."""

import json
import multiprocessing

import pytest

from kdcompress.errors import KDCompressError, UsageError
from kdcompress.pipelines.stages import RunFolder, Stage


def stage(calls, text="one", inputs=None, **rest):
    def work(folder):
        calls.append(text)
        (folder / "out.txt").write_text(text)
        return {"text": text}

    return Stage("write", work, {"text": text}, inputs or {}, **rest)


def test_done_once_and_redone_when_params_or_inputs_change(tmp_path):
    run, calls = RunFolder(tmp_path), []
    first = run.run(stage(calls))
    again = run.run(stage(calls))
    assert calls == ["one"] and not first.reused and again.reused
    assert again.hash == first.hash and again.result == {"text": "one"}
    run.run(stage(calls, "two"))
    run.run(stage(calls, inputs={"data": "abc"}))
    assert len(calls) == 3
    assert run.run(stage(calls)).reused  # what was made before is still there
    assert not run.run(stage(calls), force=True).reused


def test_a_damaged_file_is_made_again(tmp_path):
    run, calls = RunFolder(tmp_path), []
    done = run.run(stage(calls))
    (done.folder / "out.txt").write_text("damaged")
    assert run.finished(stage(calls)) is None
    assert (run.run(stage(calls)).folder / "out.txt").read_text() == "one"


DAMAGED = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "a number": b"1e999",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
}
FIELDS = ("stage", "version", "params", "inputs", "result", "files", "hash", "seconds", "sha256")
VALUES = (None, [], {}, "text", 10**30, -1.5, [[[]]], {"a": None}, {"../../out.txt": "x"}, True)


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_record_is_made_again(tmp_path, capsys, how):
    run, calls = RunFolder(tmp_path), []
    record = run.run(stage(calls)).folder / "stage.json"
    record.write_bytes(DAMAGED[how])
    assert run.run(stage(calls)).result == {"text": "one"} and calls == ["one", "one"]
    assert " ".join(capsys.readouterr().err.split()).count("is damaged or was changed, and the step is done again") == 1
    assert run.run(stage(calls)).reused


def test_a_record_is_believed_only_as_it_was_written(tmp_path):
    run, calls = RunFolder(tmp_path), []
    record = run.run(stage(calls)).folder / "stage.json"
    whole = record.read_bytes()
    written = json.loads(whole)
    for field in FIELDS:
        for value in (value for value in VALUES if value != written[field]):
            record.write_text(json.dumps({**written, field: value}))
            assert run.finished(stage(calls)) is None or (field == "sha256" and value is None), (field, value)
    for end in range(0, len(whole), 7):
        record.write_bytes(whole[:end])
        assert run.finished(stage(calls)) is None
    record.unlink()
    record.mkdir()
    assert run.finished(stage(calls)) is None
    assert not run.run(stage(calls)).reused and run.finished(stage(calls))


def test_an_edited_result_is_noticed(tmp_path, capsys):
    run, calls = RunFolder(tmp_path), []

    def work(folder):
        calls.append(1)
        return {"accuracy": 91.5, "classes": {1: "a", 10: "b", 2: float("nan")}, "shape": (1, 2)}

    record = run.run(Stage("check", work)).folder / "stage.json"
    assert run.run(Stage("check", work)).reused
    record.write_text(record.read_text().replace("91.5", "99.5"))
    assert run.run(Stage("check", work)).result["accuracy"] == 91.5 and len(calls) == 2
    assert "is damaged or was changed" in " ".join(capsys.readouterr().err.split())


def test_a_record_from_before_they_had_a_hash_is_still_good(tmp_path):
    run, calls = RunFolder(tmp_path), []
    record = run.run(stage(calls)).folder / "stage.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "sha256"}))
    assert run.run(stage(calls)).reused


def test_a_failed_stage_leaves_nothing_finished_and_a_resumable_one_keeps_its_files(tmp_path):
    run, seen = RunFolder(tmp_path), []

    def work(folder):
        seen.append(sorted(p.name for p in folder.iterdir()))
        (folder / "half").write_text("x")
        if len(seen) < 3:
            raise KDCompressError("stopped")
        return {}

    def attempt(resumes):
        return run.run(Stage("s", work, resumes=resumes))

    for _ in range(2):
        with pytest.raises(KDCompressError):
            attempt(resumes=True)
    assert run.finished(Stage("s", work)) is None
    attempt(resumes=True)
    assert seen == [[], ["half"], ["half"]]
    assert run.finished(Stage("s", work))


def test_a_full_disk_is_told_of_and_finished_stages_are_kept(tmp_path):
    run, calls = RunFolder(tmp_path), []
    run.run(stage(calls))

    def work(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(KDCompressError, match="No space left on device"):
        run.run(Stage("big", work))
    assert run.finished(stage(calls))


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


def test_the_record_says_what_the_stage_was(tmp_path):
    done = RunFolder(tmp_path).run(stage([]))
    record = json.loads((done.folder / "stage.json").read_text())
    assert record["params"] == {"text": "one"} and set(record["files"]) == {"out.txt"}
