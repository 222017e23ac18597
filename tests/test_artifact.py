"""What ships, on the disk: files and folders appear whole, and are known by their content."""

import json
import re
from dataclasses import asdict, replace

import pytest

from kdcompress.artifact import Artifact, InputSpec, Output, clean_name, replacing, sha256
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


def test_a_classifier_gives_logits():
    assert SPEC.outputs == (Output.logits(2),) == replace(SPEC, batch=3).outputs
    assert (SPEC.outputs[0].name, SPEC.outputs[0].shape) == ("logits", (2,))


def written(spec):
    return json.loads(json.dumps(asdict(spec)))


def test_outputs_are_read_back_in_their_order():
    spec = replace(SPEC, outputs=(Output("scores", (9, 2), "shares"), Output("boxes", (9, 4), "xyxy, in pixels")))
    assert InputSpec.from_json(written(spec)) == spec


def test_a_record_of_before_there_were_several_outputs_is_read():
    data = {key: value for key, value in written(SPEC).items() if key != "outputs"}
    assert InputSpec.from_json(data) == SPEC == InputSpec.from_json({**data, "output": "logits"})
    assert InputSpec.from_json({**data, "output": "y"}).outputs == (Output.logits(2, "y"),)


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        {},
        "logits",
        ["logits"],
        [{"name": "logits", "shape": [2]}],
        [{"name": "logits", "shape": [2], "meaning": "", "more": 1}],
        [{"name": "", "shape": [2], "meaning": ""}],
        [{"name": "logits", "shape": [0], "meaning": ""}],
        [{"name": "logits", "shape": [2.0], "meaning": ""}],
        [{"name": "logits", "shape": 2, "meaning": ""}],
        [{"name": "logits", "shape": [1] * 9, "meaning": ""}],
        [{"name": "logits", "shape": [1 << 20, 1 << 20], "meaning": ""}],
        [{"name": "logits", "shape": [2], "meaning": 3}],
        [{"name": "logits", "shape": [2], "meaning": ""}] * 2,
        [{"name": str(i), "shape": [2], "meaning": ""} for i in range(65)],
    ],
)
def test_outputs_that_are_none_are_refused(outputs):
    with pytest.raises(UsageError, match="model's input is damaged"):
        InputSpec.from_json({**written(SPEC), "outputs": outputs})


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
