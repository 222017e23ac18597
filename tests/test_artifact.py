"""What ships, on the disk: files and folders appear whole, and are known by their content."""

import json
import re

import pytest

from kdcompress.artifact import Artifact, InputSpec, clean_name, replacing, sha256
from kdcompress.errors import UsageError

SPEC = InputSpec(4, 4, 1, (0.5,), (0.5,), ("a", "b"))


@pytest.fixture
def pair(tmp_path):
    """An artefact of two files: a graph and its weights."""
    with replacing(tmp_path / "model") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "graph.xml").write_text("graph")
        (temporary / "deep/weights.bin").write_bytes(b"12345")
    return Artifact.of(tmp_path / "model", "two", "fp32", SPEC)


def test_a_folder_is_an_artefact(pair):
    assert pair.bytes == 10 and pair.verified() is pair
    assert Artifact.from_json(json.loads(json.dumps(pair.to_json())), pair.path.parent) == pair


@pytest.mark.parametrize("spoil", ["missing", "changed", "renamed", "further", "gone"])
def test_a_spoilt_folder_is_refused(pair, spoil):
    weights = pair.path / "deep/weights.bin"
    if spoil == "missing":
        weights.unlink()
    elif spoil == "changed":
        weights.write_bytes(b"12346")
    elif spoil == "renamed":
        weights.rename(pair.path / "weights.bin")
    elif spoil == "further":
        (pair.path / "more").touch()
    else:
        pair.path.rename(pair.path.with_name("elsewhere"))
    with pytest.raises(UsageError, match="missing, incomplete or not"):
        pair.verified()


def test_a_folder_is_replaced_whole_or_not_at_all(pair):
    before = sha256(pair.path)
    with pytest.raises(ZeroDivisionError), replacing(pair.path) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert sha256(pair.path) == before and [p.name for p in pair.path.parent.iterdir()] == ["model"]
    with replacing(pair.path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [p.name for p in pair.path.iterdir()] == ["new"]
    assert [p.name for p in pair.path.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("student", "student"),
        ("x86-vnni_v1.2", "x86-vnni_v1.2"),
        ("my student (best) é", "my-student-best-e"),
        ("../../etc/passwd", "etc-passwd"),
        ("a/b\\c\x1b]52;c;\x07", "a-b-c-52-c"),
        (".hidden", "hidden"),
        ("--option", "option"),
    ],
)
def test_any_text_becomes_a_clean_name(text, name):
    assert clean_name(text) == name


@pytest.mark.parametrize("text", ["", "...", "学生", "x" * 5000, "é" * 300, "/", "\ud800"])
def test_a_clean_name_is_never_empty_long_or_another_ones(text):
    name = clean_name(text)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) and clean_name(name) == name
    assert name != clean_name(text + "生")
