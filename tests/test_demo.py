"""python -m kdcompress.demo: its help, its options, and what is downloaded when."""

import json
from pathlib import Path

import pytest

from kdcompress import demo
from kdcompress.cli import run
from kdcompress.data import fetch
from kdcompress.errors import UsageError


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, where the images are not; what is fetched, and what is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCOMPRESS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("kdcompress.data.from_torchvision.SYSTEM", tmp_path / "system")
    calls = []
    monkeypatch.setattr(fetch, "fetch", lambda name, root: calls.append(("fetch", name, root)))
    monkeypatch.setattr(run.command, "callback", lambda **options: calls.append(("run", options)))
    return calls


def ended(*arguments):
    with pytest.raises(SystemExit) as caught:
        demo.main(list(arguments))
    return caught.value.code


def test_its_own_help(elsewhere, capsys):
    assert ended("--help") == 0 and not elsewhere
    said = capsys.readouterr().out
    for words in ("Usage: python -m kdcompress.demo", "8 minutes", "runs/fashion-mnist-demo", "OVERRIDES", "--dry-run"):
        assert words in said
    assert "--minutes" not in said and "PHOTOS" not in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    "words, said",
    [
        (["--no-such"], "No such option"),
        (["--target", "x86-vnni"], "No such option"),
        (["train.epoch=1"], "did you mean 'epochs'"),
        (["again"], "key.sub=value"),
        (["--bad\x1b[2J"], "\\x1b"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_fetched(elsewhere, capsys, words, said):
    assert ended(*words) == 2 and not elsewhere
    assert said in capsys.readouterr().err


def test_it_fetches_and_then_runs(elsewhere, tmp_path, capsys):
    assert ended("train.epochs=1", "-o", "quick", "--force", "student") == 0
    (_, name, root), (_, options) = elsewhere
    assert name == "fashion-mnist" and root == tmp_path / "data"
    assert options["recipe"] == "fashion-mnist-demo" and options["overrides"] == ("train.epochs=1",)
    assert options["output"] == Path("quick") and options["force"] == ("student",)
    assert set(options) == {each.name for each in run.command.params}
    assert capsys.readouterr().out == ""  # which is the report's


def test_what_cannot_be_fetched(elsewhere, monkeypatch, capsys):
    def fail(name, root):
        raise UsageError("It could not be downloaded.")

    monkeypatch.setattr(fetch, "fetch", fail)
    assert ended() == 2 and not elsewhere
    assert "could not be downloaded" in capsys.readouterr().err


def test_a_dry_run_fetches_nothing(elsewhere, tmp_path, capsys):
    assert ended("--dry-run", "--json", "export.targets=[onnx-fp16]") == 0 and not elsewhere
    streams = capsys.readouterr()
    steps = json.loads(streams.out)
    assert "onnx-fp16" in json.dumps(steps) and "downloaded into" in streams.err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_where_the_images_are(elsewhere, monkeypatch, fashion_mnist_root):
    monkeypatch.setenv("KDCOMPRESS_DATA", str(fashion_mnist_root))
    assert ended("--dry-run") == 0
    assert [call[0] for call in elsewhere] == ["run"] and elsewhere[0][1]["dry_run"]
