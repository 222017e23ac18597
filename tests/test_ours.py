"""What kdcompress wrote is its own to write again; nothing else in the folder is."""

import json

import pytest

from kdcompress.errors import UsageError
from kdcompress.ours import LIST, Ours
from kdcompress.report.write import write_document


def test_its_own_files_are_written_again_and_no_others(tmp_path):
    ours = Ours(tmp_path)
    ours.write("a.md", "one")
    Ours(tmp_path).write("a.md", "two")
    (tmp_path / "b.md").write_text("mine")
    (tmp_path / "c").mkdir()
    with pytest.raises(UsageError, match="were not written by kdcompress(.|\n)*b.md, c\n"):
        ours.check(["a.md", "b.md", "c", "d"])
    with pytest.raises(UsageError, match="b.md"):
        ours.write("b.md", "theirs")
    assert (tmp_path / "b.md").read_text() == "mine" and (tmp_path / "a.md").read_text() == "two"
    (tmp_path / "a.md").write_text("two, and a note of mine")
    with pytest.raises(UsageError, match="a.md"):
        ours.write("a.md", "three")
    (tmp_path / "a.md").unlink()
    assert ours.write("a.md", "three").read_text() == "three"


def test_a_link_is_never_its_own(tmp_path):
    Ours(tmp_path).write("a.md", "one")
    (tmp_path / "a.md").rename(tmp_path / "elsewhere")
    for target in ("elsewhere", "nowhere"):
        (tmp_path / "a.md").unlink(missing_ok=True)
        (tmp_path / "a.md").symlink_to(target)
        assert Ours(tmp_path).foreign(["a.md"]) == ["a.md"]


def test_killed_while_it_writes_it_knows_the_old_file_and_the_new_one(tmp_path):
    ours = Ours(tmp_path)
    ours.write("a.md", "one")
    for _ in range(3):
        ours.expect({"a.md": "the hash of what was never written"})
    assert not ours.foreign(["a.md"])
    ours.write("a.md", "two")
    assert not ours.foreign(["a.md"])


@pytest.mark.parametrize("content", ["", "null", "[]", "{", '{"a.md": 1}', '{"a.md": [null, 1]}', "\x00"])
def test_a_damaged_list_knows_nothing(tmp_path, content):
    Ours(tmp_path).write("a.md", "one")
    (tmp_path / LIST).write_text(content)
    assert Ours(tmp_path).foreign(["a.md"]) == ["a.md"]


def test_a_folder_from_before_there_were_lists(tmp_path):
    (tmp_path / "stages/student-fp32/abc").mkdir(parents=True)
    (tmp_path / "artifacts").mkdir()
    for name in ("recipe.yaml", "report.md", "stages/student-fp32/abc/student.onnx", "artifacts/student.onnx"):
        (tmp_path / name).write_text("x")
    (tmp_path / "artifacts/teacher.onnx").write_text("mine")
    names = ["recipe.yaml", "report.md", "artifacts/student.onnx", "artifacts/teacher.onnx"]
    assert Ours(tmp_path).foreign(names) == ["artifacts/teacher.onnx"]
    Ours(tmp_path).write("recipe.yaml", "y")
    assert Ours(tmp_path).foreign(names) == ["artifacts/teacher.onnx"] and json.loads((tmp_path / LIST).read_text())


def test_pages_that_somebody_else_wrote_are_not_overwritten(tmp_path):
    (tmp_path / "compare.md").write_text("mine")
    with pytest.raises(UsageError, match="compare.md"):
        write_document({}, tmp_path, "compare", str, str)
    assert [path.name for path in tmp_path.iterdir()] == ["compare.md"]
